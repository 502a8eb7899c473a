//! Runs the commands that findings name, and takes down how to take each one back.
//!
//! 1. `command` reads a finding's command: what it changes, and what has to be known of that before;
//! 2. `before` looks exactly that up on the machine;
//! 3. `plan` is pure: command and state before it become steps, each with its undo;
//! 4. `session` asks, records and runs through a `machine`: it applies the verdict's finding, has everything examined anew, and so on;
//! 5. `script` keeps the undo script on disk one step ahead of the machine;
//! 6. `persist` writes what makes it last.
//!
//! A command whose undo cannot be computed is never run: it is shown, and left to the user. Nothing is
//! run through a shell, no firewall is flushed, no rule of others is removed.

pub mod before;
pub mod command;
pub mod host;
pub mod machine;
pub mod persist;
pub mod plan;
pub mod report;
pub mod script;
pub mod session;

use super::lang::{Lang, say};

/// Why a command is left to the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It is advice in words.
    Advice,
    /// A part of it only the user can fill in, such as `GATEWAY`.
    Placeholder(String),
    /// No change that the doctor knows how to take back, such as the start of a program.
    NotUndoable,
    /// What it changes could not be looked up: why not.
    Unseen(String),
    /// More would go than what it names.
    Entangled(String),
    /// Another command of the same finding is left to the user.
    NotAlone,
    /// A file of others is in its place.
    Taken(String),
    /// Lines that only a file of the user's own can take.
    NotWhole,
    /// Something else configures this machine than what the lines are for.
    OtherConfigurator,
}

impl Refusal {
    /// It as a sentence.
    #[must_use]
    pub fn in_lang(&self, lang: Lang) -> String {
        match self {
            Self::Advice => say!(lang, "advice, not a command", "是建议，不是命令"),
            Self::Placeholder(word) => say!(
                lang,
                "only you know what {word} is",
                "{word} 的实际值只有您知道"
            ),
            Self::NotUndoable => say!(lang, "the doctor cannot undo it", "doctor 无法撤销它"),
            Self::Unseen(why) => say!(
                lang,
                "it could not be undone: the state before it is not known: {why}",
                "修改前的状态未知，因而无法撤销：{why}"
            ),
            Self::NotAlone => say!(
                lang,
                "it goes together with a command that is left to you",
                "它与另一条需要您自己执行的命令是一体的"
            ),
            Self::Taken(file) => say!(
                lang,
                "{file} is there and not the doctor's",
                "{file} 已存在，且不是 doctor 写的"
            ),
            Self::NotWhole => say!(
                lang,
                "add these lines to your own configuration file",
                "这些内容应写入您自己的配置文件"
            ),
            Self::OtherConfigurator => say!(
                lang,
                "what configures this machine's network does not read such files",
                "管理本机网络的程序不读取这类文件"
            ),
            Self::Entangled(what) => say!(
                lang,
                "the kernel would take away more with it: {what}",
                "内核会连带删除其他内容：{what}"
            ),
        }
    }
}
