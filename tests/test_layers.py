"""How layers start: moments of every net's parameters against the closed forms of PyTorch, Sonnet,
flax and Glorot.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxoff.baselines import alberdice, icq
from jaxoff.baselines.omar.discrete import TwinCritic

from jaxoff import registry
from jaxoff.config import config_fields, resolve_config
from jaxoff.learners.decomposition import RewardDecomposition
from jaxoff.names import Task
from jaxoff.nets.behaviour import JointVAE
from jaxoff.nets.gat import GraphAttention
from jaxoff.nets.layers import product
from jaxoff.nets.mixers import AffineMixer, LinearMixer, QMixer
from jaxoff.nets.mlp import MLP, ActionCritic
from jaxoff.nets.recurrent import GRU, RecurrentNet
from jaxoff.types import EnvSpec, Learner

DISCRETE = EnvSpec(
    "discrete", num_agents=3, obs_size=40, state_size=50, action_size=9, discrete=True, horizon=5
)
CONTINUOUS = dataclasses.replace(DISCRETE, name="continuous", discrete=False)
# Deviation of a weight times the square root of its fan in, and the largest weight so scaled. A
# uniform number in +-1 has deviation 1 / sqrt(3); a standard normal cut at two deviations has
# .8796, and 1 once flax has corrected for the cut.
TORCH, SONNET, FLAX = (3**-0.5, 1.0), (0.8796, 2.0), (1.0, 2.0 / 0.8796)


def layers(params: Any) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """(path, parameters) of every linear layer."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        *layer, name = jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        found.setdefault("/".join(layer), {})[name] = np.asarray(x)
    yield from ((path, layer) for path, layer in found.items() if "kernel" in layer)


def check(path: str, x: np.ndarray, fan_in: int, wanted: tuple[float, float]) -> None:
    """The moments of weights, scaled by the fan in; the more weights there are, the nearer."""
    deviation, largest = wanted
    scaled, room = x.ravel() * np.sqrt(fan_in), 4.0 / np.sqrt(x.size)
    assert scaled.std() == pytest.approx(deviation, rel=room), path
    assert abs(scaled.mean()) < 4 * deviation / np.sqrt(x.size), path
    assert np.abs(scaled).max() <= largest * (1 + 1e-5), path
    if x.size > 500:
        assert np.abs(scaled).max() > 0.97 * largest, path


NETS: dict[str, Any] = {
    "MLP": lambda start: MLP((64, 64, 9), layer_init=start).init(jax.random.key(0), jnp.zeros(40)),
    "QMixer": lambda start: QMixer(32, 64, start).init(
        jax.random.key(0), jnp.zeros(3), jnp.zeros(50)
    ),
    "QMixer, linear": lambda start: QMixer(32, 0, start).init(
        jax.random.key(0), jnp.zeros(3), jnp.zeros(50)
    ),
    "LinearMixer": lambda start: LinearMixer(32, 3, layer_init=start).init(
        jax.random.key(0), jnp.zeros(3), jnp.zeros(50)
    ),
    "AffineMixer": lambda start: AffineMixer(3, 64, start).init(
        jax.random.key(0), jnp.zeros(3), jnp.zeros(50)
    ),
    "Dueling": lambda start: icq.Dueling(64, 9, start).init(jax.random.key(0), jnp.zeros(40)),
    "TwinCritic": lambda start: TwinCritic(9, 64, False, start).init(
        jax.random.key(0), jnp.zeros(40)
    ),
    "JointVAE": lambda start: JointVAE(CONTINUOUS, 50, 64, start).init(jax.random.key(0)),
    "RewardDecomposition": lambda start: RewardDecomposition(
        layer_init=start, kind="attention"
    ).init(jax.random.key(0), jnp.zeros(50), jnp.zeros((3, 49))),
}


@pytest.mark.parametrize(
    ("start", "wanted"), [("torch", TORCH), ("sonnet", SONNET), ("flax", FLAX)]
)
@pytest.mark.parametrize("net", NETS)
def test_a_nets_layers_have_the_moments_of_the_named_start(net, start, wanted):
    seen = 0
    for path, layer in layers(NETS[net](start)):
        seen += 1
        fan_in = layer["kernel"].shape[0]
        check(path, layer["kernel"], fan_in, wanted)
        if "bias" in layer and start == "torch":
            check(path, layer["bias"], fan_in, TORCH)
        elif "bias" in layer:
            np.testing.assert_array_equal(layer["bias"], 0.0)
    assert seen >= 3


def test_glorots_rule_counts_inputs_and_outputs():
    for _, layer in layers(
        MLP((64, 200), layer_init="xavier").init(jax.random.key(0), jnp.zeros(40))
    ):
        size, out = layer["kernel"].shape
        reach = np.sqrt(6.0 / (size + out))
        assert 0.97 * reach < np.abs(layer["kernel"]).max() <= reach
        # biases as PyTorch's
        assert 0.8 / np.sqrt(size) < np.abs(layer["bias"]).max() <= 1 / np.sqrt(size)


@pytest.mark.parametrize("start", ["torch", "sonnet", "flax"])
@pytest.mark.parametrize("reset_gate", ["after", "before"])
def test_a_gru_starts_as_its_librarys(start, reset_gate):
    # PyTorch: all uniform in +-1 / sqrt(64) = .125, the two biases of the first two gates added up:
    # variance 2/3 of .125^2. Sonnet: Glorot over all three gates at once, sqrt(6 / (64 + 192)) =
    # .153. flax: orthogonal rows of length 1.
    params = GRU(64, start, reset_gate).init(jax.random.key(0), jnp.zeros(64), jnp.zeros((1, 64)))[
        "params"
    ]
    weights = {
        "input": np.asarray(params["input"]["kernel"]),
        "hidden": np.asarray(params["hidden"]),
    }
    bias = np.asarray(params["input"]["bias"])
    assert ("hidden_bias" in params) == (reset_gate == "after")
    if start == "torch":
        for name, x in weights.items():
            check(name, x, 64, TORCH)
        assert (
            bias[:128].std() == pytest.approx(0.125 * np.sqrt(2 / 3), rel=0.2)
            and np.abs(bias).max() <= 0.25
        )
        assert (
            bias[128:].std() == pytest.approx(0.125 * np.sqrt(1 / 3), rel=0.3)
            and np.abs(bias[128:]).max() <= 0.125
        )
        return
    np.testing.assert_array_equal(bias, 0.0)
    if start == "sonnet":
        for x in weights.values():
            assert 0.97 * 0.1531 < np.abs(x).max() <= 0.1531
    else:
        check("input", weights["input"], 64, FLAX)
        np.testing.assert_allclose(weights["hidden"] @ weights["hidden"].T, np.eye(64), atol=1e-5)


def test_an_input_in_parts_is_their_concatenation():
    whole = jnp.arange(2.0 * 3 * 5).reshape(2, 3, 5)
    shared, own, number = whole[:, :1, :2], whole[..., 2:4], jnp.eye(3)
    joined = jnp.concatenate(
        [jnp.broadcast_to(x, (2, 3, x.shape[-1])) for x in (shared, own, number)], -1
    )
    net = MLP((4, 2))
    params = net.init(jax.random.key(0), joined)
    parts = (shared, own, number)
    chex.assert_trees_all_equal(params, net.init(jax.random.key(0), parts))
    np.testing.assert_allclose(net.apply(params, parts), net.apply(params, joined), rtol=1e-5)


def test_layers_whose_outputs_are_added_up_start_as_one():
    # An action critic's first layer has 40 + 9 inputs in two parts; a graph attention's score has 2
    # x 64.
    params = ActionCritic(64).init(jax.random.key(0), jnp.zeros((1, 40)), jnp.zeros((1, 1, 9)))[
        "params"
    ]
    for name in ("context", "action"):
        check(name, np.asarray(params[name]["kernel"]), 49, TORCH)
    check("context", np.asarray(params["context"]["bias"]), 49, TORCH)
    params = GraphAttention(64).init(jax.random.key(0), jnp.zeros((3, 40)), jnp.zeros(40))["params"]
    halves = np.concatenate([params[name]["kernel"] for name in ("of_own", "of_node")])
    check("score", halves, 128, TORCH)


def state_of(method: str, spec: EnvSpec, **settings: Any) -> Any:
    module = registry.forms(method)["discrete" if spec.discrete else "continuous"]
    made = module.make(module.Config(**settings), spec)
    learner = made if isinstance(made, Learner) else made[0].learner
    return learner.init(jax.random.key(0))


METHODS = {
    "bc": (DISCRETE, {}),
    "bcq": (DISCRETE, {}),
    "bcq, continuous": (CONTINUOUS, {}),
    "cfcql": (DISCRETE, {"weights": "uniform"}),
    "cfcql, behaviour": (DISCRETE, {}),
    "cfcql, continuous, behaviour": (CONTINUOUS, {}),
    "macql": (DISCRETE, {}),
    "facmac": (CONTINUOUS, {}),
    "icq": (DISCRETE, {}),
    "icq, continuous": (CONTINUOUS, {}),
    "inspo": (DISCRETE, {}),
    "omar": (DISCRETE, {}),
    "omiga": (DISCRETE, {}),
    "omiga, continuous": (CONTINUOUS, {}),
    "qmix": (DISCRETE, {}),
    "sit": (DISCRETE, {}),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_pytorch_starts_as_pytorch_by_default(name):
    spec, settings = METHODS[name]
    scaled = {}
    for start in ("torch", "flax"):
        chosen = settings if start == "torch" else settings | {"layer_init": start}
        state = state_of(name.split(",")[0], spec, **chosen)
        nets = [layer for path, layer in layers(state._asdict()) if "opt" not in path.split("/")[0]]
        scaled[start] = [
            np.abs(x).max() * np.sqrt(layer["kernel"].shape[-2])
            for layer in nets
            for x in layer.values()
        ]
    assert len(scaled["torch"]) >= 4
    assert max(scaled["torch"]) <= 1 + 1e-5 and min(scaled["torch"]) > 0  # biases too
    assert max(scaled["flax"]) > 1.5 and min(scaled["flax"]) == 0


def test_every_config_with_nets_has_the_field():
    # madt and yanhui start as GPT does, which their code has; there is no choice.
    forms = [
        (name, module)
        for name in registry.learner_names()
        for module in registry.forms(name).values()
    ]
    assert {name for name, module in forms if "layer_init" not in config_fields(module.Config)} == {
        "madt",
        "yanhui",
    }


def test_alberdices_heads_start_within_a_thousandth_and_their_biases_as_pytorchs():
    state = state_of("alberdice", DISCRETE)
    n = DISCRETE.num_agents
    for params in (state.nets.policy, state.nets.teammates, state.behaviour_policy):
        head = params["params"]["Dense_2"]
        assert 0.9 * alberdice.FIRST_HEAD < np.abs(head["kernel"]).max() <= alberdice.FIRST_HEAD
        assert 0.03 < np.abs(head["bias"]).max() <= 128**-0.5
        first = np.asarray(params["params"]["Dense_0"]["kernel"])
        assert np.abs(first).max() <= np.sqrt(6.0 / (first.shape[-2] + 128))
    assert state.nets.policy["params"]["Dense_2"]["kernel"].shape[0] == n
    check("nu", np.asarray(state.nets.dual["params"]["Dense_1"]["kernel"]), 128, TORCH)


def test_a_start_that_there_is_not_is_refused_by_name():
    with pytest.raises(
        ValueError,
        match="field 'layer_init': expected one of torch, xavier, flax, sonnet, found 'pytorch'",
    ):
        resolve_config(
            registry.learner("bc", "matrix/xor/b"),
            Task.parse("matrix/xor/b"),
            {"layer_init": "pytorch"},
        )


def test_what_a_wrong_start_does_to_values():
    # The sizes that made the difference: a GRU agent's values over actions are 2.7 times as far
    # apart with flax's start.
    def spread(start: Any) -> float:
        net = RecurrentNet(64, 9, layer_init=start)
        x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, size=(20, 1, 30)), jnp.float32)
        values = [
            net.apply(net.init(jax.random.key(k), jnp.zeros(64), x[0]), jnp.zeros((20, 64)), x)[1]
            for k in range(20)
        ]
        return float(jnp.std(jnp.stack(values), -1).mean())

    assert 2.0 < spread("flax") / spread("torch") < 3.5


# --- products of rows -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows", [(), (6,), (4, 3), (2, 3, 2), (0, 3)], ids=["one", "flat", "two", "three", "none"]
)
@pytest.mark.parametrize("inputs", [5, 0])
def test_product_and_its_gradients_are_those_of_dot(rows, inputs):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(*rows, inputs)), rng.normal(size=(inputs, 4))
    weight = rng.normal(size=(*rows, 4))
    total = lambda multiply: lambda x, kernel: jnp.sum(weight * jnp.sin(multiply(x, kernel)))
    found, expected = (
        jax.jit(jax.value_and_grad(total(multiply), (0, 1)))(x, kernel)
        for multiply in (product, jnp.dot)
    )
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("own", [False, True], ids=["shared weights", "own weights"])
def test_product_is_that_of_dot_for_many_agents_and_in_a_second_derivative(own):
    rng = np.random.default_rng(1)
    x, kernel = rng.normal(size=(7, 3, 5)), rng.normal(size=(3, 5, 4) if own else (5, 4))

    def slope(multiply):
        each = jax.vmap(multiply, (1, 0 if own else None), 1)
        inner = lambda kernel: jax.grad(lambda x: jnp.sum(jnp.sin(each(x, kernel))))(x)
        return jax.jit(jax.grad(lambda kernel: jnp.sum(jnp.square(inner(kernel)))))

    chex.assert_trees_all_close(slope(product)(kernel), slope(jnp.dot)(kernel), rtol=1e-4)


def test_gradient_of_a_product_sums_over_one_axis_of_rows_on_a_cpu():
    program = jax.jit(jax.grad(lambda kernel, x: jnp.sum(jnp.square(product(x, kernel)))))
    lowered = program.lower(jnp.ones((5, 4)), jnp.ones((6, 3, 5))).as_text()
    assert "tensor<18x5xf32>" in lowered
    assert "contracting_dims = [0, 1]" not in lowered


def test_product_takes_numpy_arrays_that_a_program_closes_over():
    x, kernel = np.ones((2, 3), np.float32), np.ones((4, 3, 5), np.float32)
    found = jax.jit(lambda: jax.vmap(lambda kernel: product(x, kernel))(kernel))()
    np.testing.assert_array_equal(found, np.full((4, 2, 5), 3.0))
