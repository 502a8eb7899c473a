//! Commands that are printed to be pasted into a POSIX shell: it sees exactly the words that were meant,
//! and the terminal only printable characters.

use std::fmt::Write as _;

use super::plain::is_printable;

/// A program and its arguments as one line of a shell, each quoted where it needs to be.
#[must_use]
pub fn line<W: AsRef<str>>(words: &[W]) -> String {
    let mut quoted: Vec<_> = words.iter().map(|word| quoted(word.as_ref())).collect();
    if let Some(program) = quoted.first_mut().filter(|word| is_syntax(word)) {
        *program = format!("'{program}'");
    }
    quoted.join(" ")
}

/// Words that a shell takes for its own grammar where a program is expected (POSIX.1-2024, 2.4).
const RESERVED: [&str; 22] = [
    "case",
    "coproc",
    "do",
    "done",
    "elif",
    "else",
    "esac",
    "fi",
    "for",
    "function",
    "if",
    "in",
    "namespace",
    "select",
    "then",
    "time",
    "until",
    "while",
    "[[",
    "]]",
    "!",
    "{",
];

/// Whether a word as it is written is no program to a shell: an assignment, a reserved word.
fn is_syntax(written: &str) -> bool {
    let assigned = written
        .split_once('=')
        .map(|(name, _)| name.trim_end_matches('+'));
    let is_name = |name: &str| {
        name.chars()
            .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    };
    assigned.is_some_and(is_name) || RESERVED.contains(&written)
}

/// One word of a shell. One with characters that are not printable becomes `"$(printf '…')"` with octal
/// escapes, since POSIX has no `$'…'`. A NUL, which no word can hold, is left out.
#[must_use]
pub fn quoted(word: &str) -> String {
    if !word.is_empty() && word.chars().all(is_safe) {
        word.to_owned()
    } else if word.chars().all(is_printable) {
        format!("'{}'", word.replace('\'', r"'\''"))
    } else {
        printed(word)
    }
}

/// The words of a line that is made of words alone: the inverse of [`line()`]. Nothing where a shell would
/// expand or run something in it, or do more with it than split and unquote words.
#[must_use]
pub fn words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.trim_matches([' ', '\t']);
    while !rest.is_empty() {
        let (word, after) = first_word(rest)?;
        if words.is_empty() && is_syntax(&rest[..rest.len() - after.len()]) {
            return None;
        }
        words.push(word);
        rest = after;
        rest = rest.trim_start_matches([' ', '\t']);
    }
    (!words.is_empty()).then_some(words)
}

/// The first word and what follows it.
fn first_word(line: &str) -> Option<(String, &str)> {
    let mut word = String::new();
    let mut rest = line;
    while let Some(letter) = rest
        .chars()
        .next()
        .filter(|letter| !" \t".contains(*letter))
    {
        let after = &rest[letter.len_utf8()..];
        rest = if let Some(printed) = rest.strip_prefix("\"$(printf '") {
            let (text, after) = printed.split_once("')\"")?;
            word.push_str(&unprinted(text)?);
            after
        } else if letter == '\'' {
            let (text, after) = after.split_once('\'')?;
            word.push_str(text);
            after
        } else if letter == '"' {
            let (text, after) = after.split_once('"')?;
            word.push_str(Some(text).filter(|text| !text.contains(['$', '`', '\\']))?);
            after
        } else if letter == '\\' {
            let escaped = after.chars().next().filter(|letter| *letter != '\n')?;
            word.push(escaped);
            &after[escaped.len_utf8()..]
        } else {
            word.push(Some(letter).filter(|letter| is_safe(*letter))?);
            after
        };
    }
    Some((word, rest))
}

/// What `printf` prints for letters, digits and octal escapes of three digits.
fn unprinted(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = match first {
            b'\\' => {
                let (digits, after) = after.split_at_checked(3)?;
                let is_octal = digits.iter().all(|digit| (b'0'..=b'7').contains(digit));
                let digits = std::str::from_utf8(digits).ok().filter(|_| is_octal)?;
                bytes.push(u8::from_str_radix(digits, 8).ok()?);
                after
            }
            letter if letter.is_ascii_alphanumeric() => {
                bytes.push(*letter);
                after
            }
            _ => return None,
        };
    }
    let is_kept = !bytes.contains(&0) && !bytes.ends_with(b"\n");
    String::from_utf8(bytes).ok().filter(|_| is_kept)
}

/// Means nothing to a shell, wherever in a word.
fn is_safe(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "_./:@%+=,-".contains(letter)
}

/// The word as what `printf` prints. A substitution drops newlines at the end, so those follow it as they are.
fn printed(word: &str) -> String {
    let head = word.trim_end_matches(['\n', '\0']);
    let mut text = String::new();
    if !head.is_empty() {
        text.push_str("\"$(printf '");
        for byte in head.bytes().filter(|byte| *byte != 0) {
            if byte.is_ascii_alphanumeric() {
                text.push(char::from(byte));
            } else {
                write!(text, "\\{byte:03o}").unwrap_or_default(); // into a String
            }
        }
        text.push_str("')\"");
    }
    let newlines = word[head.len()..].chars().filter(|letter| *letter == '\n');
    let tail: String = newlines.collect();
    if !tail.is_empty() || text.is_empty() {
        write!(text, "'{tail}'").unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_that_need_no_quotes_have_none() {
        let words = ["ip", "eth0/1", "\"tun 0\"", "it's", "", "$(reboot)"];
        assert_eq!(
            line(&words),
            r#"ip eth0/1 '"tun 0"' 'it'\''s' '' '$(reboot)'"#
        );
    }

    #[test]
    fn the_first_word_is_a_program() {
        assert_eq!(line(&["A=b", "C=d"]), "'A=b' C=d");
        assert_eq!(line(&["if", "then"]), "'if' then");
        assert_eq!(line(&["./a=b"]), "./a=b");
    }

    #[test]
    fn what_is_not_printable_is_printed_by_printf() {
        assert_eq!(quoted("a\u{1b}b"), r#""$(printf 'a\033b')""#);
        assert_eq!(quoted("a\n"), "\"$(printf 'a')\"'\n'");
        assert_eq!(quoted("\0"), "''");
    }

    /// The words that `sh` sees in a line, each ended by NUL.
    fn seen_by_a_shell(line: &str) -> Vec<u8> {
        let script = format!("printf '%s\\0' {line}");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{line}: {output:?}");
        output.stdout
    }

    #[test]
    fn a_line_is_words_or_nothing() {
        let words_of = |line| words(line).map(|words| words.join("|"));
        for (line, expected) in [
            ("ip link  set\teth0 up ", "ip|link|set|eth0|up"),
            ("nft 'a b' \"c d\" e\\ f", "nft|a b|c d|e f"),
            ("printf '' x'y'\"z\"", "printf||xyz"),
        ] {
            assert_eq!(words_of(line).as_deref(), Some(expected), "{line}");
        }
        for line in [
            "",
            " ",
            "$(id)",
            "`id`",
            "a;b",
            "a | b",
            "a&",
            "a>b",
            "a\nb",
            "\"$HOME\"",
            "~",
            "*.rs",
            "#a",
            "'open",
            "\"open",
            "a\\",
            "\"$(printf '%s' a)\"",
            "\"$(id)\"",
            "{a,b}",
            "!x",
            "\u{1b}[2J",
            "A=b",
            "PATH='x' ls",
            "if x",
            "time ls",
            "\"$(printf '\\000')\"",
            "\"$(printf 'a\\012')\"",
            "\"$(printf '\\+12')\"",
        ] {
            assert_eq!(words_of(line), None, "{line}");
        }
    }

    fn hostile_word() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ -~]{0,15}",
            "[\u{1}-\u{ff}]{0,15}",
            "[$`'\"\\\\\n;&|<>(){}*?#!~ \t-]{0,8}",
            any::<String>().prop_map(|word| word.replace('\0', "")),
        ]
    }

    proptest! {
        #[test]
        fn a_shell_sees_the_words_that_were_meant(words in prop::collection::vec(hostile_word(), 1..5)) {
            let expected: Vec<_> = words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect();
            prop_assert_eq!(seen_by_a_shell(&line(&words)), expected);
        }

        #[test]
        fn words_are_read_from_their_line(words in prop::collection::vec(hostile_word(), 1..5)) {
            prop_assert_eq!(super::words(&line(&words)), Some(words));
        }

        /// Whatever is taken for words, a shell sees the same ones.
        #[test]
        fn a_shell_agrees(line in "[ \\PCa-f'\"\\\\$`;&|<>()*?#!~{}]{0,12}") {
            if let Some(words) = super::words(&line) {
                let expected: Vec<_> = words.iter().flat_map(|word| [word.as_bytes(), b"\0"].concat()).collect();
                prop_assert_eq!(seen_by_a_shell(&line), expected);
            }
        }

        #[test]
        fn a_terminal_sees_printable_characters(word in hostile_word()) {
            let quoted = quoted(&word);
            prop_assert!(quoted.trim_end_matches(['\n', '\'']).chars().all(is_printable), "{}", quoted);
        }
    }
}
