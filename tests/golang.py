"""The Go compiler, for the program in Go of docs/tokens.md."""

from typing import Final

from devstack.programs import Program

GO: Final = Program(
    "go",
    ("go",),
    "LIVEROOM_GO",
    "the program in Go of docs/tokens.md",
    "apt install golang, dnf install golang, apk add go, pacman -S go, brew install go",
    answers="version",
)
