"""Promotion and waivers: only a pass, or a valid signature by somebody the policy names, moves an alias."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from sea_lion.catalog.errors import CorruptInput, GateRefused, RecipeError
from sea_lion.catalog.inheritance import LicenceRefused
from sea_lion.catalog.recipes import Recipe, Reference
from sea_lion.catalog.records import Artifact, ArtifactRef, Checkpoint, GateDecision, Promotion, Verdict
from sea_lion.catalog.store import Made, Options, Store
from sea_lion.eval.promote import NotPromotable, promote, promotion_of
from sea_lion.eval.recipe import PromotionRecipe
from sea_lion.eval.waiver import WaiverRefused, read_signing_key, read_waiver, sign_waiver, verify_waiver, write_waiver

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\1")
PUBLIC = KEY.public_key().public_bytes_raw().hex()
TODAY = date(2026, 11, 24)
PRINT = "ab" * 32
REF = ArtifactRef(name="decision/t", version="1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing(Recipe):
    """A recipe for whatever a test needs in the store."""

    seed: int
    parents: tuple[Reference, ...] = ()


def decided(verdict: Verdict = "pass", model: str = "checkpoint/new@1", waivers: tuple[str, ...] = (PUBLIC,)) -> GateDecision:
    return GateDecision(
        stage="t/cpt", model=model, scorecard="scorecard/new@1", baselines=(), policy="cpt", policy_fingerprint="c" * 64,
        verdict=verdict, reason="bits_per_byte/khm -0.010", on_refusal="stop", kept="", outcomes=(), waivers=waivers,
    )  # fmt: skip


def signed(decision: GateDecision, key: Ed25519PrivateKey = KEY, fingerprint: str = PRINT, expires: date = TODAY) -> Any:
    return sign_waiver(decision, fingerprint, person="A. Tan", reason='cost known, "accepted"', expires=expires, key=key)


def promoted(decision: GateDecision, waiver: Any = None, ref: ArtifactRef = REF) -> Promotion:
    return promotion_of(decision, ref=ref, fingerprint=PRINT, sequence=1, waiver=waiver, today=TODAY)


class Shelf:
    """A store with checkpoints and decisions made on demand."""

    def __init__(self, root: Path) -> None:
        self.store, self.root, self.seed = Store(root), root, 0
        for model in ("old", "new"):
            self.put(f"checkpoint/{model}", Checkpoint(stage="cpt", architecture="LlamaForCausalLM", parameters=1))

    def put(self, name: str, body: Any, version: str = "1", **fields: Any) -> Artifact:
        self.seed += 1
        recipe = Thing(kind="thing", name=name, version=version, seed=self.seed, **fields)
        return self.store.make(recipe, self.root, lambda job: Made(body=body), Options())

    def promote(
        self, decision: str, name: str = "promotion/t", waiver: tuple[str, ...] = (), version: str = "1", licence: str = ""
    ) -> Promotion:
        recipe = PromotionRecipe(
            kind="promotion", name=name, version=version, decision=decision, waiver=waiver, licence=licence
        )
        body = self.store.make(recipe, self.root, promote, Options()).body
        assert isinstance(body, Promotion)
        return body


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_a_pass_moves_the_alias_and_the_history_counts_up(shelf: Shelf) -> None:
    shelf.put("decision/old", decided(model="checkpoint/old@1"))
    shelf.put("decision/new", decided())
    first = shelf.promote("decision/old@1", "promotion/a")
    assert (first.stage, first.model, first.sequence, first.verdict) == ("t/cpt", "checkpoint/old@1", 1, "pass")
    second = shelf.promote("decision/new@1", "promotion/b")
    assert second.sequence == 2 and (second.waiver_by, second.waiver_reason) == ("", "")
    assert str(shelf.store.stage_model("t/cpt")[0].ref) == "checkpoint/new@1"


def test_a_licence_above_the_parents_is_refused_and_leaves_nothing(shelf: Shelf) -> None:
    def model(name: str, licence: str = "", *parents: str) -> None:
        body = Checkpoint(stage="merge", architecture="LlamaForCausalLM", parameters=1)
        shelf.put(f"checkpoint/{name}", body, licence=licence, parents=parents)

    model("llama", "Llama 3.1 Community License Agreement")
    model("gemma", "Gemma")
    model("llama-merge", "", "checkpoint/llama@1", "checkpoint/gemma@1")
    shelf.put("decision/new", decided(model="checkpoint/llama-merge@1"))
    with pytest.raises(LicenceRefused) as caught:
        shelf.promote("decision/new@1", licence="MIT")
    said = str(caught.value)
    assert said.startswith("checkpoint/llama-merge@1 cannot be under 'MIT': ") and "use-policy:Llama 3.1" in said
    assert "checkpoint/llama@1 is under" in said and "checkpoint/gemma@1 is under" in said and "use-policy:Gemma" in said
    assert shelf.store.promotions("t/cpt") == [] and not (shelf.root / "promotion").exists()
    assert shelf.promote("decision/new@1", licence="llama3.1 AND gemma").sequence == 1


def test_going_back_and_promoting_again_are_promotions_too(shelf: Shelf) -> None:
    shelf.put("decision/old", decided(model="checkpoint/old@1"))
    shelf.put("decision/new", decided())
    for i, model in enumerate(("old", "new", "old", "old"), start=1):
        assert shelf.promote(f"decision/{model}@1", f"promotion/p{i}").sequence == i
    assert str(shelf.store.stage_model("t/cpt")[0].ref) == "checkpoint/old@1"


def test_a_promotion_made_again_does_not_count_itself(shelf: Shelf) -> None:
    shelf.put("decision/old", decided(model="checkpoint/old@1"))
    shelf.put("decision/new", decided())
    assert shelf.promote("decision/old@1", version="dev").sequence == 1
    assert shelf.promote("decision/new@1", version="dev").sequence == 1


@pytest.mark.parametrize("verdict", ["fail", "hold", "error"])
def test_what_did_not_pass_is_refused_and_leaves_nothing(shelf: Shelf, verdict: Verdict) -> None:
    shelf.put("decision/new", decided(verdict))
    with pytest.raises(GateRefused, match=f"the gate says {verdict}"):
        shelf.promote("decision/new@1")
    assert not (shelf.root / "promotion").exists()
    assert shelf.store.promotions("t/cpt") == []


def test_only_a_decision_can_be_promoted(shelf: Shelf) -> None:
    with pytest.raises(RecipeError, match="not a gate decision"):
        shelf.promote("checkpoint/new@1")


@pytest.mark.parametrize(
    "decision,ref",
    [
        (decided(model="checkpoint/new@dev"), REF),
        (replace(decided(), scorecard="scorecard/new@dev"), REF),
        (decided(), ArtifactRef(name="decision/t", version="dev")),
    ],
)
def test_nothing_that_can_be_rebuilt_is_promoted(decision: GateDecision, ref: ArtifactRef) -> None:
    with pytest.raises(NotPromotable, match="'dev'"):
        promoted(decision, ref=ref)
    with pytest.raises(NotPromotable):
        promoted(replace(decision, verdict="hold"), signed(replace(decision, verdict="hold")), ref)


def test_a_signed_waiver_promotes_and_is_named(shelf: Shelf) -> None:
    decision = shelf.put("decision/new", decided("hold"))
    assert isinstance(decision.body, GateDecision)
    expires = datetime.now(UTC).date() + timedelta(days=30)
    waiver = sign_waiver(decision.body, decision.fingerprint, person="A. Tan", reason="known", expires=expires, key=KEY)
    write_waiver(shelf.root / "waiver.toml", waiver)
    body = shelf.promote("decision/new@1", waiver=("waiver.toml",))
    assert (body.verdict, body.waiver_by, body.waiver_reason) == ("hold", "A. Tan", "known")
    write_waiver(shelf.root / "waiver-2.toml", waiver)
    with pytest.raises(RecipeError, match="one file, not 2"):
        shelf.promote("decision/new@1", "promotion/two", waiver=("waiver*.toml",))


def test_a_waiver_is_valid_through_its_last_day() -> None:
    decision = decided("fail")
    assert promoted(decision, signed(decision)).waiver_by == "A. Tan"
    with pytest.raises(WaiverRefused, match="expired on 2026-11-23"):
        promoted(decision, signed(decision, expires=TODAY - timedelta(days=1)))


def test_a_waiver_for_something_else_is_refused() -> None:
    decision = decided("hold")
    with pytest.raises(WaiverRefused, match="it is for decision cdcdcdcdcdcd, not for abababababab"):
        promoted(decision, signed(decision, fingerprint="cd" * 32))
    with pytest.raises(WaiverRefused, match="it is for decision"):
        promoted(decision, signed(decided("hold", model="checkpoint/other@1")))


def test_a_waiver_by_a_stranger_or_under_a_policy_without_waivers_is_refused() -> None:
    decision = decided("hold")
    with pytest.raises(WaiverRefused, match="its key is not among those of policy 'cpt'"):
        promoted(decision, signed(decision, STRANGER))
    closed = decided("hold", waivers=())
    with pytest.raises(WaiverRefused, match="no key is accepted by policy 'cpt'"):
        promoted(closed, signed(closed))


@pytest.mark.parametrize("field", ["decision", "stage", "model", "person", "reason", "expires", "public_key", "signature"])
def test_changing_any_field_breaks_the_signature(field: str) -> None:
    decision = decided("hold")
    waiver = signed(decision)
    other = {
        "expires": "2099-01-01",
        "public_key": STRANGER.public_key().public_bytes_raw().hex(),
        "signature": signed(decision, STRANGER).signature,
    }.get(field, "other")
    with pytest.raises(WaiverRefused, match="signature does not match"):
        promoted(decision, replace(waiver, **{field: other}))


@pytest.mark.parametrize("signature", ["", "zz", "00" * 64])
def test_no_signature_is_no_signature(signature: str) -> None:
    decision = decided("hold")
    with pytest.raises(WaiverRefused, match="signature does not match"):
        promoted(decision, replace(signed(decision), signature=signature))


def test_a_bad_waiver_beside_a_pass_is_an_error_and_a_good_one_leaves_no_trace() -> None:
    decision = decided()
    assert promoted(decision, signed(decision)).waiver_by == ""
    with pytest.raises(WaiverRefused):
        promoted(decision, signed(decision, STRANGER))


text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).filter(lambda value: value.strip() != "")


@given(person=text, reason=text)
def test_any_text_survives_the_file(tmp_path_factory: pytest.TempPathFactory, person: str, reason: str) -> None:
    path = tmp_path_factory.mktemp("waiver") / "w.toml"
    decision = decided("hold")
    waiver = sign_waiver(decision, PRINT, person=person, reason=reason, expires=TODAY, key=KEY)
    write_waiver(path, waiver)
    assert read_waiver(path, decision, PRINT, TODAY) == waiver


@pytest.mark.parametrize(
    "old,new,key,problem",
    [
        ('expires = "2026-11-24"', 'expires = "soon"', "(file)", "not a date"),
        ('person = "A. Tan"', 'person = " "', "(file)", "needs a person"),
        ("reason = ", "raeson = ", "raeson", "did you mean 'reason'"),
        ('expires = "2026-11-24"', "expires = 2026-11-24", "(file)", "date"),
        ("person = ", "person ", "", "not TOML"),
    ],
)
def test_a_file_that_is_no_waiver_is_refused_by_key(tmp_path: Path, old: str, new: str, key: str, problem: str) -> None:
    path, decision = tmp_path / "w.toml", decided("hold")
    write_waiver(path, signed(decision))
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
    with pytest.raises(RecipeError) as caught:
        read_waiver(path, decision, PRINT, TODAY)
    assert caught.value.key == key and problem in caught.value.problem


def test_signing_keys_are_ed25519_in_pem(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    decision = decided("hold")
    verify_waiver(signed(decision, read_signing_key(path)), decision, PRINT, TODAY)
    path.write_bytes(generate_private_key(65537, 1024).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(CorruptInput, match="not an Ed25519 key"):
        read_signing_key(path)
    path.write_text("no key", "utf-8")
    with pytest.raises(CorruptInput, match="not an unencrypted private key"):
        read_signing_key(path)
