//! Commands that are printed to be pasted into a POSIX shell: it sees exactly the words that were meant,
//! and the terminal only printable characters.

use std::fmt::Write as _;

/// Words as one line of a shell, each quoted where it needs to be.
#[must_use]
pub fn line<W: AsRef<str>>(words: &[W]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| quoted(word.as_ref())).collect();
    quoted.join(" ")
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

/// Means nothing to a shell, wherever in a word.
fn is_safe(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "_./:@%+=,-".contains(letter)
}

fn is_printable(letter: char) -> bool {
    "\"'\\".contains(letter) || letter.escape_debug().eq([letter])
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
        fn a_terminal_sees_printable_characters(word in hostile_word()) {
            let quoted = quoted(&word);
            prop_assert!(quoted.trim_end_matches(['\n', '\'']).chars().all(is_printable), "{}", quoted);
        }
    }
}
