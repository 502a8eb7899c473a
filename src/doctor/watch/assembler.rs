//! Classic BPF with names for the places that are jumped to (linux/filter.h; McCanne and Jacobson 1993).
//! Jumps go forward only, as the kernel demands.

use crate::io::packet_socket::Instruction;

/// Where the kernel keeps what it knows of a packet beside its bytes (linux/filter.h).
const ANCILLARY: u32 = 0xffff_f000;
pub(super) const ETHERTYPE: u32 = ANCILLARY;
pub(super) const ADDRESSING: u32 = ANCILLARY + 4;
pub(super) const DEVICE: u32 = ANCILLARY + 8;

/// A place in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// Where a jump goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// To the next instruction.
    Next,
    To(Label),
}

/// What an instruction does to the order.
#[derive(Debug, Clone, Copy)]
enum Jump {
    Never,
    Always(Label),
    /// Where the comparison holds, and where it does not.
    If(Target, Target),
}

/// A program under construction. A is the accumulator, X the index register.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    instructions: Vec<(Instruction, Jump)>,
    /// The instruction that each label names.
    labels: Vec<Option<usize>>,
}

impl Assembler {
    pub(super) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label names what comes next.
    pub(super) fn here(&mut self, label: Label) {
        self.labels[label.0] = Some(self.instructions.len());
    }

    /// A = the 32 bits at `at`.
    pub(super) fn load_word(&mut self, at: u32) {
        self.plain(0x20, at);
    }

    /// A = the byte at `at`.
    pub(super) fn load_byte(&mut self, at: u32) {
        self.plain(0x30, at);
    }

    /// A = the 32 bits at X + `at`.
    pub(super) fn load_word_from_x(&mut self, at: u32) {
        self.plain(0x40, at);
    }

    /// A = the 16 bits at X + `at`.
    pub(super) fn load_half_from_x(&mut self, at: u32) {
        self.plain(0x48, at);
    }

    /// A = the byte at X + `at`.
    pub(super) fn load_byte_from_x(&mut self, at: u32) {
        self.plain(0x50, at);
    }

    /// X = `value`.
    pub(super) fn set_x(&mut self, value: u32) {
        self.plain(0x01, value);
    }

    /// A = X.
    pub(super) fn move_from_x(&mut self) {
        self.plain(0x87, 0);
    }

    /// X = A.
    pub(super) fn move_to_x(&mut self) {
        self.plain(0x07, 0);
    }

    /// A = A & `mask`.
    pub(super) fn and(&mut self, mask: u32) {
        self.plain(0x54, mask);
    }

    /// A = A << `bits`.
    pub(super) fn shift_left(&mut self, bits: u32) {
        self.plain(0x64, bits);
    }

    /// A = A + `value`.
    pub(super) fn add(&mut self, value: u32) {
        self.plain(0x04, value);
    }

    /// A = A + X.
    pub(super) fn add_x(&mut self) {
        self.plain(0x0c, 0);
    }

    pub(super) fn go_to(&mut self, label: Label) {
        self.push(0x05, 0, Jump::Always(label));
    }

    /// Where A is `value`.
    pub(super) fn if_equal(&mut self, value: u32, then: Target, otherwise: Target) {
        self.push(0x15, value, Jump::If(then, otherwise));
    }

    /// Where A has any bit of `mask`.
    pub(super) fn if_any(&mut self, mask: u32, then: Target, otherwise: Target) {
        self.push(0x45, mask, Jump::If(then, otherwise));
    }

    /// Ends: takes so many bytes of the packet.
    pub(super) fn take(&mut self, bytes: u32) {
        self.plain(0x06, bytes);
    }

    /// The program. Comparisons jump over 255 instructions at most; a jump farther, back or to a label
    /// that names nothing would go to the instruction after it.
    pub(super) fn finish(self) -> Vec<Instruction> {
        let labels = &self.labels;
        let distance = |from: usize, Label(label): Label| {
            let distance = labels[label].and_then(|to| to.checked_sub(from + 1));
            distance.unwrap_or_default()
        };
        let short = |from, target| match target {
            Target::Next => 0,
            Target::To(label) => u8::try_from(distance(from, label)).unwrap_or_default(),
        };
        let numbered = self.instructions.iter().enumerate();
        numbered
            .map(|(at, (instruction, jump))| match *jump {
                Jump::Never => *instruction,
                Jump::Always(label) => Instruction {
                    operand: u32::try_from(distance(at, label)).unwrap_or_default(),
                    ..*instruction
                },
                Jump::If(then, otherwise) => Instruction {
                    jump_true: short(at, then),
                    jump_false: short(at, otherwise),
                    ..*instruction
                },
            })
            .collect()
    }

    fn plain(&mut self, code: u16, operand: u32) {
        self.push(code, operand, Jump::Never);
    }

    fn push(&mut self, code: u16, operand: u32, jump: Jump) {
        let instruction = Instruction {
            code,
            jump_true: 0,
            jump_false: 0,
            operand,
        };
        self.instructions.push((instruction, jump));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_count_what_they_pass_over() {
        let mut program = Assembler::default();
        let (yes, no) = (program.label(), program.label());
        program.load_byte(9);
        program.if_equal(4, Target::To(yes), Target::Next);
        program.if_any(8, Target::Next, Target::To(no));
        program.here(yes);
        program.go_to(no);
        program.take(1);
        program.here(no);
        program.take(0);
        let program: Vec<_> = program
            .finish()
            .iter()
            .map(|one| (one.code, one.jump_true, one.jump_false, one.operand))
            .collect();
        assert_eq!(
            program,
            [
                (0x30, 0, 0, 9),
                (0x15, 1, 0, 4),
                (0x45, 0, 2, 8),
                (0x05, 0, 0, 1),
                (0x06, 0, 0, 1),
                (0x06, 0, 0, 0)
            ]
        );
    }
}
