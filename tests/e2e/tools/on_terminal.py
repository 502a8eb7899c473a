# Runs a command on a terminal of its own and types the same answer to each question.
# Arguments: ANSWER COMMAND…; ends with the command's exit status, prints what it printed.
import os
import pty
import sys

answer, command = sys.argv[1], sys.argv[2:]


def read(terminal):
    output = os.read(terminal, 4096)
    if b"[y/N]" in output:
        os.write(terminal, answer.encode() + b"\n")
    return output


def nothing(_):
    return b""


sys.exit(os.waitstatus_to_exitcode(pty.spawn(command, read, nothing)))
