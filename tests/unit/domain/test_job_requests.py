import pytest

from domain.base_models import BaseModelFacts
from domain.job_requests import FileFacts, JobRequest, base_learning_rate, check_total_steps, resolve
from domain.parsing import parse_as
from domain.refusals import Refusal
from domain.runs import RunSpec

DIGEST = "sha256:" + "0" * 64
FACTS = BaseModelFacts(
    model_type="llama", hidden_size=576, num_hidden_layers=2, max_position_embeddings=2048,
    linear_modules=("down_proj", "q_proj"),
)  # fmt: skip


def resolved(
    *,
    rows: int = 100,
    validation: bool = False,
    facts: BaseModelFacts = FACTS,
    **fields: object,
) -> RunSpec:
    return resolve(
        JobRequest.model_validate({"model": "m", "training_file": "f"} | fields),
        base_model="m",
        base_model_digest=DIGEST,
        facts=facts,
        training=FileFacts(digest=DIGEST, rows=rows),
        validation=FileFacts(digest=DIGEST, rows=1) if validation else None,
        evaluation=None,
        seed=7,
    )


def code_of(**fields: object) -> tuple[str, str | None]:
    with pytest.raises(Refusal) as refused:
        resolved(**fields)  # type: ignore[arg-type]
    return refused.value.code, refused.value.param


def test_auto_becomes_numbers() -> None:
    spec = resolved()
    # 100 rows in batches of 8 are 13 steps, three times; a twentieth of 39 steps warms up; a tenth would be
    # 4 steps, too few between checkpoints.
    assert (spec.batch_size, spec.n_epochs, spec.total_steps) == (8, 3, 39)
    assert (spec.optimiser.warmup_steps, spec.checkpoint_every_steps, spec.validate_every_steps) == (1, 20, 0)
    assert (spec.lora.lora_rank, spec.lora.alpha, spec.data.max_seq_len) == (8, 16.0, 512)
    assert resolved(validation=True).validate_every_steps == 10
    assert resolved(lora={"max_steps": 1000}).checkpoint_every_steps == 100


def test_what_is_given_is_kept() -> None:
    spec = resolved(
        hyperparameters={"batch_size": 10, "n_epochs": 2, "learning_rate_multiplier": 0.5},
        lora={"rank": 4, "alpha": 3, "target_modules": ["q_proj", "q_proj"], "max_seq_len": 64, "clip_norm": 0},
    )
    assert (spec.batch_size, spec.total_steps, spec.optimiser.learning_rate) == (10, 20, pytest.approx(5e-4))
    assert (spec.lora.lora_rank, spec.lora.alpha, spec.lora.target_modules) == (4, 3.0, ("q_proj",))
    assert (spec.data.max_seq_len, spec.optimiser.clip_norm) == (64, 0)


def test_steps_can_be_given_in_place_of_epochs() -> None:
    spec = resolved(lora={"max_steps": 14})
    assert (spec.total_steps, spec.n_epochs) == (14, 2)


def test_the_learning_rate_goes_through_its_two_sources() -> None:
    assert base_learning_rate(576) == pytest.approx(1e-3)
    assert base_learning_rate(4096) == pytest.approx(2e-4)
    assert base_learning_rate(64) == pytest.approx(1e-3)
    assert 2e-4 < base_learning_rate(2048) < 1e-3


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"lora": {"max_steps": 5}, "hyperparameters": {"n_epochs": 1}}, "conflicting_fields", "lora.max_steps"),
        ({"lora": {"learning_rate": 0.1}, "hyperparameters": {"learning_rate_multiplier": 1}}, "conflicting_fields",
         "lora.learning_rate"),
        ({"hyperparameters": {}, "method": {"type": "supervised"}}, "conflicting_fields", "hyperparameters"),
        ({"lora": {"max_seq_len": 2049}}, "exceeds_base_model", "lora.max_seq_len"),
        ({"lora": {"target_modules": ["q_porj"]}}, "unknown_target_module", "lora.target_modules"),
        ({"lora": {"target_modules": ["lm_head"]}}, "unknown_target_module", "lora.target_modules"),
        ({"lora": {"validate_every_steps": 1}}, "invalid_request", "lora.validate_every_steps"),
        ({"lora": {"rank_pattern": {"q_porj": 4}}}, "unknown_target_module", "lora.rank_pattern.q_porj"),
        ({"lora": {"rank_pattern": {"(q_proj|q_porj)": 4}}}, "unknown_target_module",
         "lora.rank_pattern.(q_proj|q_porj)"),
        ({"lora": {"rank_pattern": {"layers.2.self_attn.q_proj": 4}}}, "unknown_target_module",
         "lora.rank_pattern.layers.2.self_attn.q_proj"),
        ({"lora": {"alpha_pattern": {r"layers.\d+": 4}}}, "unknown_target_module", r"lora.alpha_pattern.layers.\d+"),
        ({"lora": {"alpha_pattern": {".*q_proj": 4}}}, "invalid_request", "lora.alpha_pattern..*q_proj"),
        ({"lora": {"alpha_pattern": {"down_proj": 4}, "target_modules": ["q_proj"]}}, "conflicting_fields",
         "lora.alpha_pattern.down_proj"),
        ({"lora": {"rank_pattern": {"q_proj": 4, "self_attn.q_proj": 8}}}, "conflicting_fields",
         "lora.rank_pattern.self_attn.q_proj"),
        ({"lora": {"init": "pissa", "dropout": 0.1}}, "conflicting_fields", "lora.dropout"),
        ({"lora": {"init": "pissa", "rank": 129}}, "out_of_range", "lora.rank"),
        ({"lora": {"init": "pissa", "rank_pattern": {"q_proj": 129}}}, "out_of_range", "lora.rank_pattern.q_proj"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(fields: dict[str, object], code: str, param: str) -> None:
    assert code_of(**fields) == (code, param)


def test_more_steps_than_the_limit_are_refused_with_both_numbers() -> None:
    check_total_steps(39, 39)
    with pytest.raises(Refusal, match="40 steps; the limit here is 39") as refused:
        check_total_steps(40, 39)
    assert (refused.value.code, refused.value.param) == ("job_too_large", "hyperparameters")


def test_the_methods_of_lora_are_kept() -> None:
    lora = {
        "use_dora": True, "init": "pissa", "bias": "lora_only", "rank": 128,
        "rank_pattern": {"layers.(0|1).self_attn.q_proj": 4}, "alpha_pattern": {"q_proj": 2, "down_proj": 0.5},
    }  # fmt: skip
    method = resolved(lora=lora).lora
    assert (method.use_dora, method.init, method.bias) == (True, "pissa", "lora_only")
    assert method.rank_pattern == {"layers.(0|1).self_attn.q_proj": 4}
    assert method.alpha_pattern == {"q_proj": 2.0, "down_proj": 0.5}
    plain = resolved().lora
    assert (plain.use_dora, plain.init, plain.bias, plain.rank_pattern) == (False, "kaiming", "none", {})


@pytest.mark.parametrize(("init", "most"), [("eva", 32), ("pissa", 64)])
def test_a_start_takes_no_more_directions_than_the_base_models_width_has(init: str, most: int) -> None:
    narrow = FACTS.model_copy(update={"hidden_size": 64})
    assert resolved(facts=narrow, lora={"init": init, "rank": most}).lora.lora_rank == most
    with pytest.raises(Refusal) as refused:
        resolved(facts=narrow, lora={"init": init, "rank": most + 1})
    assert (refused.value.code, refused.value.param) == ("out_of_range", "lora.rank")


@pytest.mark.parametrize(
    ("lora", "code", "param"),
    [
        ({"rank_pattern": {"q_proj": 257}}, "out_of_range", "lora.rank_pattern.q_proj"),
        ({"rank_pattern": {"q_proj": 0}}, "out_of_range", "lora.rank_pattern.q_proj"),
        ({"rank_pattern": {"q_proj": 1.5}}, "wrong_type", "lora.rank_pattern.q_proj"),
        ({"alpha_pattern": {"q_proj": 0}}, "out_of_range", "lora.alpha_pattern.q_proj"),
        ({"alpha_pattern": {"q_proj": True}}, "wrong_type", "lora.alpha_pattern.q_proj"),
        ({"rank_pattern": ["q_proj"]}, "wrong_type", "lora.rank_pattern"),
        ({"rank_pattern": {f"a{place}": 1 for place in range(65)}}, "out_of_range", "lora.rank_pattern"),
        ({"init": "orthogonal"}, "invalid_request", "lora.init"),
        ({"bias": True}, "invalid_request", "lora.bias"),
        ({"use_dora": 1}, "wrong_type", "lora.use_dora"),
    ],
)  # fmt: skip
def test_what_no_base_model_takes_is_refused_before_one_is_looked_at(
    lora: dict[str, object], code: str, param: str
) -> None:
    with pytest.raises(Refusal) as refused:
        parse_as(JobRequest, {"model": "m", "training_file": "f", "lora": lora})
    assert (refused.value.code, refused.value.param) == (code, param)


@pytest.mark.parametrize(
    ("lora", "param"),
    [
        ({"rank": 129}, "lora.rank"),
        ({"rank_pattern": {"q_proj": 129}}, "lora.rank_pattern.q_proj"),
        ({"rank_pattern": {"layers.(0|1).mlp.down_proj": 256, "q_proj": 8}},
         "lora.rank_pattern.layers.(0|1).mlp.down_proj"),
    ],
)  # fmt: skip
def test_no_adapter_is_promised_that_servers_refuse_for_its_rank(lora: dict[str, object], param: str) -> None:
    # peft doubles a PiSSA adapter's rank when it takes the start out (`subtract_mutated_init`); we export up to 256.
    with pytest.raises(Refusal, match="twice the rank, and may have 256") as refused:
        resolved(lora=lora | {"init": "pissa"})
    assert (refused.value.code, refused.value.param, refused.value.status) == ("out_of_range", param, 400)
    # Half of it is taken, and all of it from a start that leaves the base as it is.
    halved = {"rank": 128, "rank_pattern": {"q_proj": 128}}
    assert resolved(lora=halved | {"init": "pissa"}).lora.rank_pattern == {"q_proj": 128}
    assert resolved(lora=lora).lora.init == "kaiming"


def test_a_multiplier_beyond_a_rate_of_one_is_refused() -> None:
    assert base_learning_rate(FACTS.hidden_size) * 100 <= 1
    facts = FACTS.model_copy(update={"hidden_size": 1})
    assert base_learning_rate(facts.hidden_size) * 100 <= 1


def test_a_suffix_names_the_adapter() -> None:
    request = {"model": "m", "training_file": "f"}
    assert JobRequest.model_validate(request).adapter_name == "default"
    assert JobRequest.model_validate(request | {"suffix": "a.b-c_1"}).adapter_name == "a.b-c_1"
    for odd in ("a b", "../x", "-a", "a-", "é", "a\n"):
        with pytest.raises(Refusal):
            _ = JobRequest.model_validate(request | {"suffix": odd}).adapter_name


def test_a_specification_without_a_parent_reads_as_it_did_before_there_were_any() -> None:
    # Workers of the release before refuse fields that they do not know.
    fresh = resolved()
    assert "parent" not in fresh.model_dump(mode="json")
    continued = fresh.model_copy(update={"parent": DIGEST})
    assert RunSpec.model_validate_json(continued.model_dump_json()).parent == DIGEST
