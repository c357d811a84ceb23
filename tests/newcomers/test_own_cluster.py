"""Manifests for a Kafka and a domain of one's own, and keys that rotate: the steps of
deploy/README.md and docs/operations.md, as far as they need no cluster. kubectl makes the Secrets
without sending them.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import trustme

from devstack.builds import ROOT
from devstack.programs import KUBECTL, need
from liveroom.access import SERVICES
from tests.deploy.own import PAGE, write_overlay
from tests.docs.blocks import bodies

OPERATIONS: Final = ROOT / "docs" / "operations.md"
TOKEN_KEYS: Final = '{"keys": [{"kty": "oct", "kid": "k1", "k": "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s"}]}'
# Instead of a cluster: what it would be sent is kept, and printed when it is asked for.
KUBECTL_WITHOUT_CLUSTER: Final = """#!/bin/sh
case "$*" in
  *"create secret"*) {kubectl} "$@" --dry-run=client --output yaml >> created.yaml && echo --- >> created.yaml ;;
  *"get secret"*) cat created.yaml ;;
  *) exec {kubectl} "$@" ;;
esac
"""


def steps(page: Path, *words: str) -> str:
    """The block of shell commands of a page that has all the words."""
    (commands,) = (body for body in bodies(str(page), "sh") if all(word in body for word in words))
    return commands


class Newcomer:
    """Who follows the pages, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        programs = folder / ".programs"
        programs.mkdir(parents=True)
        kubectl = programs / "kubectl"
        kubectl.write_text(KUBECTL_WITHOUT_CLUSTER.format(kubectl=need(KUBECTL)))
        kubectl.chmod(0o755)
        self._environment = os.environ | {"PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(self, commands: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-ec", commands], cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False
        )

    def does(self, commands: str) -> str:
        done = self.run(commands)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def creates_secrets(self) -> None:
        (self.folder / "created.yaml").write_text("")
        commands = steps(PAGE, "--from-file=secrets", "liveroom-edge-tls").replace("liveroom keys secrets\n", "")
        self.does(commands)

    def checks(self) -> list[str]:
        """The lines of step 7: what is wrong."""
        done = self.run(steps(PAGE, "kubectl kustomize", "liveroom manifests"))
        lines = done.stdout.splitlines()
        assert done.returncode == bool(lines[-1:] != ["6 deployments: every service understands what it is given"]), done.stderr
        return lines if done.returncode else []


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Newcomer:
    """Who has done the steps up to the Secrets, with what others must give: a certificate, the
    brokers' authority, passwords, the keys of their log-in, a token.
    """
    here = Newcomer(tmp_path_factory.mktemp("my-liveroom"))
    write_overlay(here.folder)
    secrets = here.folder / "secrets"
    secrets.mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(secrets / "kafka-ca.crt")
    certificate = authority.issue_cert("*.edge.example.org")
    certificate.private_key_pem.write_to_path(here.folder / "edge.key")
    certificate.cert_chain_pems[0].write_to_path(here.folder / "edge.crt")
    for service in SERVICES:
        (secrets / f"kafka-{service}-password").write_text(f"hush {service}")
    (secrets / "token_keys.json").write_text(TOKEN_KEYS)
    (secrets / "liveroom_token").write_text("an.operators.token")
    here.does("liveroom keys secrets")
    here.creates_secrets()
    return here


def test_the_steps_of_the_page_make_manifests_that_every_service_understands(newcomer: Newcomer) -> None:
    assert newcomer.checks() == []


def test_a_password_that_was_forgotten_is_one_line_with_its_key(newcomer: Newcomer) -> None:
    file = newcomer.folder / "secrets" / "kafka-edge-password"
    password = file.read_text()
    file.unlink()
    newcomer.creates_secrets()
    lines = newcomer.checks()
    file.write_text(password)
    newcomer.creates_secrets()
    assert [(line.partition(":")[0], line.partition(" -> ")[2]) for line in lines] == [
        ("edge", "Secret liveroom, key kafka-edge-password")
    ]


def test_ticket_keys_rotate_by_the_three_steps_of_the_page(newcomer: Newcomer) -> None:
    text = OPERATIONS.read_text(encoding="utf-8")
    first, second, third = re.findall(r"^\d\. `(liveroom keys FOLDER --(?:add|first|remove)[^`]*)`", text, re.MULTILINE)
    for command in (first, second, third):
        newcomer.does(command.replace("FOLDER", "secrets"))
    newcomer.creates_secrets()
    assert newcomer.checks() == []
    assert "k1" not in (newcomer.folder / "secrets" / "ticket_public_keys.json").read_text()
