//! `tunlb status --watch`: the same again and again, on a screen of its own, until a signal.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGWINCH};
use signal_hook::low_level::emulate_default_handler;
use signal_hook_mio::v1_0::Signals;

use super::{Args, text};
use crate::cli::columns::Screen;
use crate::cli::{complain, for_stdout, print_json, print_on};
use crate::client::{Client, ClientError};
use crate::text::plain::plain;

/// To another screen, where lines of the shell stay, and without a cursor (xterm's private modes 1049 and 25).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// To the first column of the first line. Nothing is cleared before: that would flicker.
const HOME: &str = "\x1b[H";
/// What is left of an older frame in a line, and below all lines.
const REST_OF_LINE: &str = "\x1b[K";
const REST_OF_SCREEN: &str = "\x1b[J";

/// Lines where the terminal does not tell.
const HEIGHT: usize = 24;

pub(super) fn run(args: &Args, client: &Client, interval: Duration) -> Result<ExitCode> {
    let mut clock = Clock::new(interval).context("cannot watch for signals")?;
    // Where there is no director at first, a screen full of that is no help.
    let mut frame = Frame::take(args, client)?;
    let is_live = io::stdout().is_terminal() && !args.json && !is_dumb();
    let mut screen = is_live.then(OwnScreen::enter).transpose()?;
    loop {
        match &screen {
            Some(screen) => screen.draw(&frame)?,
            None if !frame.append()? => return Ok(ExitCode::SUCCESS),
            None => {}
        }
        match clock.tick()? {
            Tick::Due => {}
            Tick::End => return Ok(ExitCode::SUCCESS),
            Tick::Pause => {
                let was_live = screen.take().is_some(); // leaves it
                emulate_default_handler(SIGTSTP).context("cannot stop")?;
                screen = was_live.then(OwnScreen::enter).transpose()?;
            }
        }
        frame = Frame::take(args, client).unwrap_or_else(Frame::Gone);
    }
}

/// A terminal that moves no cursor.
fn is_dumb() -> bool {
    std::env::var("TERM").is_ok_and(|term| term == "dumb")
}

/// What is shown at one time.
enum Frame {
    Lines(String),
    Json(String),
    /// It may come again: a director that is restarted.
    Gone(ClientError),
}

impl Frame {
    fn take(args: &Args, client: &Client) -> Result<Self, ClientError> {
        let vip = args.vip.as_deref();
        if args.json {
            return client.status_text(vip).map(Self::Json);
        }
        let status = client.status(vip)?;
        let screen = Screen::of_stdout();
        Ok(Self::Lines(text(&status, args.view(), screen)))
    }

    /// Prints it behind the last one; whether anything reads it still.
    fn append(&self) -> Result<bool> {
        match self {
            Self::Lines(text) => print_on(&(for_stdout(text) + "\n")),
            Self::Json(document) => print_json(document),
            Self::Gone(error) => {
                complain(&format!("tunlb: {error}"));
                Ok(true)
            }
        }
    }

    fn lines(&self) -> Vec<String> {
        match self {
            Self::Lines(text) | Self::Json(text) => text.lines().map(str::to_owned).collect(),
            Self::Gone(error) => vec![Screen::of_stdout().cut(&plain(&error.to_string()))],
        }
    }
}

/// The terminal, as long as frames are drawn on it; dropping it gives it back.
struct OwnScreen {
    colours: bool,
}

impl OwnScreen {
    fn enter() -> Result<Self> {
        let choice = anstream::AutoStream::choice(&io::stdout());
        write(ENTER)?;
        Ok(Self {
            colours: choice != anstream::ColorChoice::Never,
        })
    }

    /// In one write, line over line.
    fn draw(&self, frame: &Frame) -> Result<()> {
        let size = terminal_size::terminal_size_of(io::stdout());
        let height = size.map_or(HEIGHT, |(_, height)| usize::from(height.0));
        let drawn = drawn(&frame.lines(), height);
        if self.colours {
            return write(&drawn);
        }
        write(&without_styles(&drawn))
    }
}

impl Drop for OwnScreen {
    fn drop(&mut self) {
        write(LEAVE).unwrap_or_default(); // where it is gone, there is nothing to give back
    }
}

/// As many lines as there is room for; the last one says how many are missing.
fn drawn(lines: &[String], height: usize) -> String {
    let shown = if lines.len() <= height {
        lines.len()
    } else {
        height.saturating_sub(1)
    };
    let more = lines.len() - shown;
    let more = (more > 0).then(|| format!("{} more", crate::text::count(more, "line")));
    let all: Vec<_> = lines[..shown].iter().chain(&more).collect();
    let mut text = HOME.to_owned();
    for (row, line) in all.iter().enumerate() {
        if row > 0 {
            text.push_str("\r\n");
        }
        text.push_str(line);
        text.push_str(REST_OF_LINE);
    }
    text + REST_OF_SCREEN
}

/// Colours and weights go, what moves the cursor stays.
fn without_styles(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\x1b') {
        kept.push_str(before);
        let end = after.find(|letter: char| letter.is_ascii_alphabetic());
        let (sequence, behind) = after.split_at(end.map_or(after.len(), |end| end + 1));
        if !sequence.ends_with('m') {
            kept.push('\x1b');
            kept.push_str(sequence);
        }
        rest = behind;
    }
    kept + rest
}

fn write(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes());
    written
        .and_then(|()| stdout.flush())
        .context("cannot write to the terminal")
}

/// When the next frame is due; signals come in between.
struct Clock {
    poll: Poll,
    signals: Signals,
    interval: Duration,
    next: Instant,
}

/// What comes after a frame.
enum Tick {
    /// The next one.
    Due,
    /// Ctrl-C, or the terminal is gone.
    End,
    /// Ctrl-Z.
    Pause,
}

impl Clock {
    fn new(interval: Duration) -> io::Result<Self> {
        let poll = Poll::new()?;
        let heard = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGWINCH];
        let mut signals = Signals::new(heard)?;
        poll.registry()
            .register(&mut signals, Token(0), Interest::READABLE)?;
        Ok(Self {
            poll,
            signals,
            interval,
            next: Instant::now() + interval,
        })
    }

    fn tick(&mut self) -> Result<Tick> {
        let mut events = Events::with_capacity(1);
        loop {
            let left = self.next.saturating_duration_since(Instant::now());
            match self.poll.poll(&mut events, Some(left)) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    return Err(error).context("cannot wait");
                }
                Ok(()) | Err(_) => {}
            }
            let came: Vec<_> = self.signals.pending().collect();
            if came
                .iter()
                .any(|signal| ![SIGTSTP, SIGWINCH].contains(signal))
            {
                return Ok(Tick::End);
            }
            if came.contains(&SIGTSTP) {
                return Ok(Tick::Pause);
            }
            if !came.is_empty() {
                return Ok(Tick::Due); // the old frame does not fit
            }
            if Instant::now() >= self.next {
                self.next = Instant::now() + self.interval;
                return Ok(Tick::Due);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        let lines = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(
            drawn(&lines, 3),
            "\x1b[Ha\x1b[K\r\nb\x1b[K\r\nc\x1b[K\x1b[J"
        );
        assert_eq!(
            drawn(&lines, 2),
            "\x1b[Ha\x1b[K\r\n2 lines more\x1b[K\x1b[J"
        );
        assert_eq!(drawn(&[], 2), "\x1b[H\x1b[J");
    }

    #[test]
    fn styles_go_and_movements_stay() {
        assert_eq!(
            without_styles("\x1b[H\x1b[1m\x1b[31mred\x1b[0m\x1b[K\x1b[J"),
            "\x1b[Hred\x1b[K\x1b[J"
        );
        assert_eq!(without_styles("a\x1b"), "a\x1b");
    }
}
