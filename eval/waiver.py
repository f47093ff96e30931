"""Signed waivers: a named person answers for promoting a model that its gate did not pass.

A waiver is a TOML file bound to one gate decision by its fingerprint, with an end, signed with Ed25519; the policy lists whose
signatures count. A flag or an unsigned file is refused: it could not say afterwards who decided. Make a key with
`openssl genpkey -algorithm ed25519 -out waiver-key.pem` and keep it out of the repository.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ..catalog.errors import CorruptInput, SeaLionError
from ..catalog.fingerprint import canonical_json, plain
from ..catalog.recipes import read_table, read_toml
from ..catalog.records import STRICT, GateDecision
from ..catalog.store import write_atomically

DOMAIN = "sea-lion waiver 1\n"
"""Goes before what is signed, so that a signature made for something else cannot stand for a waiver."""


class WaiverRefused(SeaLionError):
    """A waiver that does not carry a promotion: forged, for another decision, expired or by someone without the say."""

    def __init__(self, waiver: Waiver, problem: str) -> None:
        self.waiver = waiver
        super().__init__(f"the waiver of {waiver.person} for {waiver.model} in {waiver.stage} is not accepted: {problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiver:
    """What a waiver file says."""

    __pydantic_config__ = STRICT

    decision: str
    """Fingerprint of the gate decision's artifact."""
    stage: str
    """The decision's stage."""
    model: str
    """The decision's candidate."""
    person: str
    """Who answers for it."""
    reason: str
    """Why the model is promoted nevertheless."""
    expires: str
    """Last day on which it is accepted, ISO 8601 (`2026-12-31`)."""
    public_key: str
    """Ed25519 public key, 64 lower-case hexadecimal digits."""
    signature: str = ""
    """Ed25519 signature over all other fields, 128 hexadecimal digits."""

    def __post_init__(self) -> None:
        try:
            date.fromisoformat(self.expires)
        except ValueError as error:
            raise ValueError(f"expires: {self.expires!r} is not a date like 2026-12-31") from error
        if not self.person.strip() or not self.reason.strip():
            raise ValueError("a waiver needs a person and a reason")

    def message(self) -> bytes:
        """What is signed: the canonical JSON of every field but the signature."""
        rest = {key: value for key, value in plain(self).items() if key != "signature"}
        return (DOMAIN + canonical_json(rest)).encode()


def sign_waiver(
    decision: GateDecision, fingerprint: str, *, person: str, reason: str, expires: date, key: Ed25519PrivateKey
) -> Waiver:
    """A waiver for the decision whose artifact has this fingerprint."""
    unsigned = Waiver(
        decision=fingerprint,
        stage=decision.stage,
        model=decision.model,
        person=person,
        reason=reason,
        expires=expires.isoformat(),
        public_key=key.public_key().public_bytes_raw().hex(),
    )
    return replace(unsigned, signature=key.sign(unsigned.message()).hex())


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """Read an Ed25519 private key (PEM, unencrypted); raises CorruptInput for anything else."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise CorruptInput(path, "", "is not an unencrypted private key in PEM form") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise CorruptInput(path, "", "is not an Ed25519 key")
    return key


def write_waiver(path: Path, waiver: Waiver) -> None:
    """Write a waiver as TOML."""
    # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
    lines = [f"{field.name} = {_quoted(getattr(waiver, field.name))}" for field in dataclasses.fields(waiver)]
    write_atomically(path, "\n".join(lines) + "\n")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def read_waiver(path: Path, decision: GateDecision, fingerprint: str, today: date) -> Waiver:
    """Read and verify a waiver; raises RecipeError for a file that is none and WaiverRefused for one that does not hold."""
    waiver = read_table(read_toml(path), Waiver, path)
    verify_waiver(waiver, decision, fingerprint, today)
    return waiver


def verify_waiver(waiver: Waiver, decision: GateDecision, fingerprint: str, today: date) -> None:
    """Raise WaiverRefused unless the waiver carries a promotion on this decision today."""
    if not _is_signed(waiver):
        raise WaiverRefused(waiver, "its signature does not match its text; sign it again")
    if waiver.public_key not in decision.waivers:
        allowed = "its key is not among those of" if decision.waivers else "no key is accepted by"
        raise WaiverRefused(waiver, f"{allowed} policy {decision.policy!r}; add it to the policy's waivers and gate again")
    if (waiver.decision, waiver.stage, waiver.model) != (fingerprint, decision.stage, decision.model):
        problem = (
            f"it is for decision {waiver.decision[:12]}, not for {fingerprint[:12]} ({decision.model} in {decision.stage})"
        )
        raise WaiverRefused(waiver, problem)
    if today > date.fromisoformat(waiver.expires):
        raise WaiverRefused(waiver, f"it expired on {waiver.expires}")


def _is_signed(waiver: Waiver) -> bool:
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(waiver.public_key))
        key.verify(bytes.fromhex(waiver.signature), waiver.message())
    except (ValueError, InvalidSignature):
        return False
    return True
