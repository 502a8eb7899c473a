//! Programs for the filter of a packet socket: classic BPF with names for the places that are jumped to (linux/filter.h;
//! McCanne and Jacobson 1993). Jumps go forward only, as the kernel demands.

use std::net::IpAddr;

use super::packet_socket::Instruction;

/// Where the kernel keeps what it knows of a packet beside its bytes (linux/filter.h).
const ANCILLARY: u32 = 0xffff_f000;
/// The protocol of the network layer.
pub const ETHERTYPE: u32 = ANCILLARY;
/// To whom a packet goes, as `sll_pkttype` has it.
pub const ADDRESSING: u32 = ANCILLARY + 4;
/// The index of its device.
pub const DEVICE: u32 = ANCILLARY + 8;

/// `sll_pkttype` of what a switch sends to others (linux/if_packet.h).
pub const TO_ANOTHER_HOST: u32 = 3;
/// `sll_pkttype` of what this machine sends.
pub const OUTGOING: u32 = 4;

/// Index of `lo` in every network namespace.
pub const LOOPBACK: u32 = 1;

/// All of a packet.
pub const WHOLE: u32 = 0xffff;

/// Where the fields of an IP header are.
#[derive(Debug)]
pub struct IpFields {
    /// What the link says of it.
    pub ethertype: u32,
    /// The protocol of the tunnel that carries it.
    pub tunnelled_as: u32,
    /// Of its payload.
    pub protocol: u32,
    /// The source address.
    pub source: u32,
    /// The destination address.
    pub destination: u32,
    /// Length in bytes without options; of IPv4 the header tells its own.
    pub length: u32,
}

/// RFC 791 §3.1.
pub const IPV4: IpFields = IpFields {
    ethertype: 0x0800,
    tunnelled_as: 4,
    protocol: 9,
    source: 12,
    destination: 16,
    length: 20,
};
/// RFC 8200 §3.
pub const IPV6: IpFields = IpFields {
    ethertype: 0x86dd,
    tunnelled_as: 41,
    protocol: 6,
    source: 8,
    destination: 24,
    length: 40,
};

/// A place in the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// Where a jump goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// To the next instruction.
    Next,
    /// To a place.
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
pub struct Assembler {
    instructions: Vec<(Instruction, Jump)>,
    /// The instruction that each label names.
    labels: Vec<Option<usize>>,
}

impl Assembler {
    /// The name of a place that comes later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label names what comes next.
    pub fn here(&mut self, label: Label) {
        self.labels[label.0] = Some(self.instructions.len());
    }

    /// A = the 32 bits at `at`.
    pub fn load_word(&mut self, at: u32) {
        self.plain(0x20, at);
    }

    /// A = the byte at `at`.
    pub fn load_byte(&mut self, at: u32) {
        self.plain(0x30, at);
    }

    /// A = the 32 bits at X + `at`.
    pub fn load_word_from_x(&mut self, at: u32) {
        self.plain(0x40, at);
    }

    /// A = the 16 bits at X + `at`.
    pub fn load_half_from_x(&mut self, at: u32) {
        self.plain(0x48, at);
    }

    /// A = the byte at X + `at`.
    pub fn load_byte_from_x(&mut self, at: u32) {
        self.plain(0x50, at);
    }

    /// X = `value`.
    pub fn set_x(&mut self, value: u32) {
        self.plain(0x01, value);
    }

    /// A = X.
    pub fn move_from_x(&mut self) {
        self.plain(0x87, 0);
    }

    /// X = A.
    pub fn move_to_x(&mut self) {
        self.plain(0x07, 0);
    }

    /// A = A & `mask`.
    pub fn and(&mut self, mask: u32) {
        self.plain(0x54, mask);
    }

    /// A = A << `bits`.
    pub fn shift_left(&mut self, bits: u32) {
        self.plain(0x64, bits);
    }

    /// A = A + `value`.
    pub fn add(&mut self, value: u32) {
        self.plain(0x04, value);
    }

    /// A = A + X.
    pub fn add_x(&mut self) {
        self.plain(0x0c, 0);
    }

    /// Goes on there.
    pub fn go_to(&mut self, label: Label) {
        self.push(0x05, 0, Jump::Always(label));
    }

    /// Where A is `value`.
    pub fn if_equal(&mut self, value: u32, then: Target, otherwise: Target) {
        self.push(0x15, value, Jump::If(then, otherwise));
    }

    /// Where A has any bit of `mask`.
    pub fn if_any(&mut self, mask: u32, then: Target, otherwise: Target) {
        self.push(0x45, mask, Jump::If(then, otherwise));
    }

    /// Goes on where the address at X + `at` is that one.
    pub fn if_address(&mut self, at: u32, address: IpAddr, otherwise: Label) {
        let (words, count) = words(address);
        for (offset, word) in (at..).step_by(4).zip(&words[..count]) {
            self.load_word_from_x(offset);
            self.if_equal(*word, Target::Next, Target::To(otherwise));
        }
    }

    /// Ends: takes so many bytes of the packet.
    pub fn take(&mut self, bytes: u32) {
        self.plain(0x06, bytes);
    }

    /// The program. Comparisons jump over 255 instructions at most; a jump farther, back or to a label
    /// that names nothing would go to the instruction after it.
    pub fn finish(self) -> Vec<Instruction> {
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

fn words(address: IpAddr) -> ([u32; 4], usize) {
    match address {
        IpAddr::V4(v4) => ([v4.to_bits(), 0, 0, 0], 1),
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            let word =
                |shift: u32| u32::try_from((bits >> shift) & 0xffff_ffff).unwrap_or_default();
            ([word(96), word(64), word(32), word(0)], 4)
        }
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
