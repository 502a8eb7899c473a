//! The languages in which the doctor talks, and which of them a user reads.

use clap::ValueEnum;

/// A language of findings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Lang {
    /// English.
    #[default]
    En,
    /// Chinese, simplified.
    Zh,
}

impl Lang {
    /// The language of a locale such as `zh_CN.UTF-8`; English for all that is not Chinese.
    #[must_use]
    pub fn of_locale(locale: &str) -> Self {
        if locale.starts_with("zh") {
            Self::Zh
        } else {
            Self::En
        }
    }

    /// Of two texts the one in this language.
    pub const fn pick<T: Copy>(self, english: T, chinese: T) -> T {
        match self {
            Self::En => english,
            Self::Zh => chinese,
        }
    }
}

/// A text in both languages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    /// In English.
    pub en: &'static str,
    /// In Chinese.
    pub zh: &'static str,
}

impl Text {
    /// The text in a language.
    #[must_use]
    pub const fn in_lang(self, lang: Lang) -> &'static str {
        lang.pick(self.en, self.zh)
    }
}

/// Formats one of two texts, both with the variables in scope: `say!(lang, "english", "chinese")`.
macro_rules! say {
    ($lang:expr, $en:literal, $zh:literal $(,)?) => {
        match $lang {
            $crate::doctor::lang::Lang::En => format!($en),
            $crate::doctor::lang::Lang::Zh => format!($zh),
        }
    };
}
pub(in crate::doctor) use say;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locales() {
        assert_eq!(Lang::of_locale("zh_TW.UTF-8"), Lang::Zh);
        for other in ["", "C", "de_DE.UTF-8", "en_US"] {
            assert_eq!(Lang::of_locale(other), Lang::En);
        }
    }
}
