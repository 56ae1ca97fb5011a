"""Recipes: the grids they mean, on each task and under other settings, and what is refused."""

import dataclasses
import itertools
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from read_cache.config import RateRange, RunConfig
from read_cache.errors import UserError
from read_cache.methods.run import live_methods
from read_cache.networks.read import ReadConfig
from read_cache.networks.read_matching import ReadMatchingConfig
from read_cache.scoring.heads import HeadSettings
from read_cache.settings import split_texts
from read_cache.training.network_config import NetworkConfig
from read_cache.training.recipe import BUNDLED, Recipe, load_recipe, read_table, side_networks

SMALL = "[network]\ncell = 'rnn'\nhidden = 4\n[run]\nepochs = 1\nbatch_size = 8\n"


def written(folder: Path, text: str) -> Recipe:
    """The recipe of a file with this text."""
    (folder / "mine.toml").write_text(text)
    return load_recipe(str(folder / "mine.toml"))


def read(**values: object) -> NetworkConfig:
    """A READ network."""
    return NetworkConfig(kind="read", settings=ReadConfig(**values))


def test_the_papers_grid() -> None:
    """192 networks: three cells, two widths, 32 rates on a log scale from 1e-6 to 3e-3; then three seeds."""
    sweep = load_recipe("paper").sweep("cola")
    networks = sweep.networks()
    assert len({network.name for network in networks}) == len(networks) == 192
    assert {(n.settings.cell, n.settings.hidden) for n in networks} == set(
        itertools.product(("rnn", "gru", "lstm"), (128, 256))
    )
    facts = {(n.kind, n.settings.initial_state, n.settings.standardize, n.seed) for n in networks}
    assert facts == {("read", "zero", False, 0)}
    rates = sorted({network.learning_rate for network in networks})
    assert (len(rates), rates[0], rates[-1]) == (32, 1e-6, 3e-3)
    assert np.allclose(np.diff(np.log(rates)), np.log(3000) / 31, rtol=1e-4)
    assert sweep.run == RunConfig(epochs=30)
    assert sweep.search.final_seeds == (0, 1, 2)


def test_every_bundled_recipe_can_be_trained_and_sample_says_that_it_is_not_read() -> None:
    kinds = {**side_networks(), **live_methods()}
    sweeps = {path.stem: load_recipe(path.stem, kinds).sweep("mnli", apart=True) for path in BUNDLED.glob("*.toml")}
    counts = {name: len(sweep.networks()) for name, sweep in sweeps.items()}
    assert counts.items() >= {"paper": 192, "table2": 32, "sample": 12}.items()
    assert all(counts.values())
    assert {network.kind for network in sweeps["sample"].networks()} == {"read_matching"}
    assert not any(network.settings.recurrent for network in sweeps["table2"].networks())


def test_the_recipe_in_the_docs_is_one(tmp_path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "comparing.md").read_text().split("```toml\n")
    recipe = next(block.partition("```")[0] for block in text[1:] if "[network]" in block)
    (tmp_path / "mine.toml").write_text(textwrap.dedent(recipe))
    read = load_recipe(str(tmp_path / "mine.toml"), {**side_networks(), **live_methods()})
    assert read.sweep("cola", apart=True).networks()


def test_a_task_has_its_own_grid_and_given_settings_come_first(tmp_path) -> None:
    text = SMALL + "[tasks.cola]\nhidden = [8, 16]\nepochs = 3\nlearning_rate = [0.01, 0.001]\n"
    recipe = written(tmp_path, text)
    cola, other = recipe.sweep("cola"), recipe.sweep("qnli")
    assert [(n.settings.hidden, n.learning_rate) for n in cola.networks()] == [
        (8, 0.01), (8, 0.001), (16, 0.01), (16, 0.001),
    ]  # fmt: skip
    assert cola.run == RunConfig(epochs=3, batch_size=8)
    assert other.networks() == [read(cell="rnn", hidden=4)]
    assert other.run == RunConfig(epochs=1, batch_size=8)
    sweep = recipe.override({"hidden": [2], "epochs": 5}).sweep("cola")
    assert {n.settings.hidden for n in sweep.networks()} == {2}
    assert sweep.run.epochs == 5
    assert len(sweep.networks()) == 2


def test_without_a_recipe_there_is_one_network_of_the_defaults() -> None:
    assert Recipe().sweep("any").networks() == [read()]
    assert Recipe().sweep("any").run == RunConfig()


def test_a_grid_is_the_product_without_repeats() -> None:
    table = {"cell": ["rnn", "gru"], "hidden": [8, 16, 8], "learning_rate": [1e-3, 1e-4], "seed": [0, 1, 1]}
    networks = Recipe().override(table).sweep("any").networks()
    assert len(networks) == len({network.name for network in networks}) == 2 * 2 * 2 * 2


def test_kinds_are_a_setting_like_any_other_and_each_takes_the_settings_it_has() -> None:
    table = {"kind": ["read", "read_matching", "ladder"], "hidden": [4, 8], "matching": [1, 2], "reduction": 4}
    networks = Recipe().override(table).sweep("any").networks()
    assert [network.kind for network in networks] == ["read"] * 2 + ["read_matching"] * 4 + ["ladder"]
    assert {n.settings.matching for n in networks if n.kind == "read_matching"} == {1, 2}
    assert networks[-1].settings.reduction == 4
    assert all(type(network.settings) is side_networks()[network.kind] for network in networks)


def test_head_settings_stand_beside_the_networks(tmp_path) -> None:
    recipe = written(tmp_path, "[network]\nkind = 'probe'\nhead.pooling = ['mean', 'first']\nhead.dropout = 0.2\n")
    networks = recipe.sweep("any").networks()
    assert [network.head for network in networks] == [
        HeadSettings(pooling=pooling, dropout=0.2) for pooling in ("mean", "first")
    ]
    overridden = recipe.override({"head.pooling": "apart"}).sweep("any").networks()
    assert [network.head.pooling for network in overridden] == ["apart"]


def test_settings_as_text_mean_what_the_same_values_mean_in_toml() -> None:
    texts = ["hidden=8,16", "recurrent=false", "layers=1,2", "learning_rate=1e-3", "epochs=2", "head.pooling=first"]
    values = {"hidden": [8, 16], "recurrent": False, "layers": "1,2", "learning_rate": 1e-3, "epochs": 2}
    given = Recipe().override(split_texts(texts), text=True)
    assert given.values == Recipe().override(values | {"head": {"pooling": "first"}}).values
    for text in ("hidden", "=3", "hidden="):
        with pytest.raises(UserError, match="NAME=VALUE"):
            split_texts([text])
    with pytest.raises(UserError, match=r"'hidden' twice.*hidden=VALUE,VALUE"):
        split_texts(["hidden=8", "hidden=16"])
    with pytest.raises(UserError, match="hidden"):
        Recipe().override(split_texts(["hidden=wide"]), text=True)


@given(st.integers(2, 200))
def test_rates_of_a_range_are_within_it_and_named_apart(count) -> None:
    rates = RateRange(low=1e-6, high=3e-3, count=count).rates()
    assert (rates[0], rates[-1]) == (1e-6, 3e-3)
    assert len({read().replaced(learning_rate=rate).name for rate in rates}) == count


def test_ranges_and_arrays_are_lists(tmp_path) -> None:
    given = Recipe().override(
        {"seed": range(3), "hidden": np.array([4, 8]), "learning_rate": np.float32(0.5), "epochs": np.int64(2)}
    )
    expected = Recipe().override({"seed": [0, 1, 2], "hidden": [4, 8], "learning_rate": 0.5, "epochs": 2})
    assert given.values == expected.values
    assert given.sweep("any").networks() == expected.sweep("any").networks()
    with pytest.raises(UserError, match="hidden"):
        Recipe().override({"hidden": np.array([4.5])})


def test_settings_that_differ_in_the_last_digit_have_names_that_differ() -> None:
    value = 0.1
    above = float(np.nextafter(value, 1))
    assert len({read().replaced(learning_rate=rate).name for rate in (value, above)}) == 2
    for setting in ("dropout", "embedding_gain", "residual"):
        names = {
            NetworkConfig(kind="read_matching", settings=ReadMatchingConfig(**{setting: one})).name
            for one in (value, above)
        }
        assert len(names) == 2


def test_names_show_what_differs_and_nothing_else() -> None:
    assert read().name == "read-gru-128-lr0.0005-seed0"
    gained = NetworkConfig(kind="read_matching", settings=ReadMatchingConfig(embedding_gain=4, residual=0), seed=3)
    assert gained.name == "read_matching-gru-128-64-embedding_gain=4-residual=0-lr0.0005-seed3"
    headed = read(recurrent=False).replaced(head=HeadSettings(pooling="apart"))
    assert headed.name == "read-gru-128-recurrent=false-head.pooling=apart-lr0.0005-seed0"
    assert "/" not in read(layers="1,2").replaced(kind="a/b").name


def test_a_configuration_is_the_same_for_all_seeds_and_for_nothing_else() -> None:
    networks = [read(), read(hidden=8), read(cell="rnn"), read().replaced(head=HeadSettings(dropout=0.3))]
    networks.append(read().replaced(learning_rate=1e-3))
    assert len({network.configuration for network in networks}) == len(networks)
    assert len({network.replaced(seed=seed).configuration for network in networks for seed in (0, 7)}) == len(networks)


def test_settings_of_runs_kinds_and_networks_do_not_share_names() -> None:
    for config in [*side_networks().values(), *live_methods().values()]:
        assert not set(config.model_fields) & (set(RunConfig.model_fields) | {"kind", "learning_rate", "seed"})


REFUSED = {
    "unknown table": ("[nets]\n", ("nets", "network, run, tasks, search")),
    "unknown setting": ("[network]\nhiden = 4", ("[network]", "hiden", "cell, hidden")),
    "unknown setting of a head": ("[network]\nhead.poling = 'mean'", ("[network]", "head.poling", "head.pooling")),
    "a run's setting among a network's": ("[network]\nepochs = 4", ("[network]", "epochs", "[run]")),
    "a network's setting among a run's": ("[run]\nhidden = 4", ("[run]", "hidden")),
    "text for a number": ("[network]\nhidden = '4'", ("[network] hidden", "'4'", "integer")),
    "one of a list": ("[network]\nhidden = [4, 5.5]", ("[network] hidden", "5.5", "integer")),
    "true for a number": ("[run]\nepochs = true", ("[run] epochs", "True", "integer")),
    "number for true": ("[network]\nrecurrent = 1", ("[network] recurrent", "1", "boolean")),
    "no such cell": ("[network]\ncell = 'elman'", ("[network] cell", "'elman'", "'rnn', 'gru' or 'lstm'")),
    "no such kind": ("[network]\nkind = 'reed'", ("[network] kind", "'reed'", "'read', 'read_matching'")),
    "a setting that the kind lacks": (
        "[network]\nkind = 'probe'\nhidden = 8", ("hidden", "probe", "read, read_matching")),
    "number for layers": ("[network]\nlayers = 3", ("[network] layers", "3", "string")),
    "a date": ("[network]\nhidden = 2020-01-01", ("[network] hidden", "expected")),
    "list for a run": ("[run]\nepochs = [1, 2]", ("[run] epochs", "[1, 2]", "integer")),
    "empty list": ("[network]\nseed = []", ("[network] seed", "empty list")),
    "rate out of bounds": ("[network]\nlearning_rate = [0.1, 2]", ("[network] learning_rate", "2", "less than 1")),
    "rate nan": ("[network]\nlearning_rate = nan", ("[network] learning_rate", "nan")),
    "seed too large": ("[network]\nseed = 9223372036854775808", ("[network] seed", "9223372036854775808")),
    "epochs 0": ("[run]\nepochs = 0", ("[run] epochs", "0", "1")),
    "clip inf": ("[run]\nclip = inf", ("[run] clip", "inf", "finite")),
    "halving -1": ("[run]\nhalving = -1", ("[run] halving", "-1", "0")),
    "no high": ("[network]\nlearning_rate = {low = 0.1, count = 2}", ("learning_rate", "high is missing")),
    "low above high": ("[network]\nlearning_rate = {low = 0.1, high = 0.01, count = 2}", ("0.1", "0.01", "low < high")),
    "unknown bound": ("[network]\nlearning_rate = {low = 0.1, heigh = 0.2}", ("learning_rate", "heigh")),
    "no count": ("[network]\nlearning_rate = {low = 0.1, high = 0.2}", ("learning_rate", "count is missing")),
    "count 1": ("[network]\nlearning_rate = {low = 0.1, high = 0.2, count = 1}", ("count", "1", "equal to 2")),
    "no such search": ("[search]\ntrials = 3", ("[search]", "trials", "final_seeds")),
    "count text": ("[network]\nlearning_rate = {low = 0.1, high = 0.2, count = 'x'}", ("count", "'x'", "integer")),
    "network no table": ("network = 3", ("[network]", "3", "a table")),
    "task no table": ("[tasks]\ncola = 3", ("[tasks.cola]", "3", "a table")),
    "a task's setting": ("[tasks.cola]\nhiden = 3", ("[tasks.cola]", "hiden")),
    "a task's grid contradicts itself": (
        "[network]\nrecurrent = false\n[tasks.cola]\nattention = 'none'", ("[tasks.cola]", "recurrent is false")),
    "final seeds": ("[search]\nfinal_seeds = [0, -1]", ("[search] final_seeds", "-1", "0")),
    "many seeds in a search": (
        "[network]\nseed = [0, 1]\n[search]\nfinal_seeds = [2]", ("seed is [0, 1]", "final_seeds")),
    "no TOML": ("[network", ("not valid TOML",)),
}  # fmt: skip


@pytest.mark.parametrize(("text", "facts"), REFUSED.values(), ids=REFUSED)
def test_mistakes_in_a_recipe_are_refused_by_name(tmp_path, text, facts) -> None:
    with pytest.raises(UserError) as refused:
        written(tmp_path, text)
    message = str(refused.value)
    assert message.startswith(f"recipe {tmp_path / 'mine.toml'}")
    assert [fact for fact in facts if fact not in message] == []


def test_a_table_for_a_task_without_a_store_is_refused_in_a_file_of_the_users(tmp_path) -> None:
    mine = written(tmp_path, SMALL + "[tasks.wnil]\nhidden = 8\n")
    mine.check_tasks(["wnil", "cola"])
    with pytest.raises(UserError, match=r"tasks\.wnil.*cola, wnli"):
        mine.check_tasks(["wnli", "cola"])
    load_recipe("sample").check_tasks(["cola"])


def test_a_recipe_that_does_not_exist_names_those_that_do(tmp_path) -> None:
    with pytest.raises(UserError, match=r"'papper'.*paper, .*sample.*, table2"):
        load_recipe("papper")
    with pytest.raises(UserError, match=r"none\.toml"):
        load_recipe(str(tmp_path / "none.toml"))


def test_a_kind_from_outside_takes_its_settings_from_recipes() -> None:
    class LoraConfig(ReadConfig):
        rank: int = 8

    kinds = {"lora": LoraConfig}
    recipe = dataclasses.replace(Recipe(), kinds=kinds).override({"rank": [2, 4]})
    assert [(n.kind, n.settings.rank) for n in recipe.sweep("any").networks()] == [("lora", 2), ("lora", 4)]
    with pytest.raises(UserError, match="rank"):
        read_table({"rank": 2}, side_networks(), "settings")


def test_settings_of_one_kind_alone(tmp_path) -> None:
    """A table or a dotted name; they replace those of all kinds, and options replace both."""
    text = """
[network]
kind = ["read", "ladder", "probe"]
learning_rate = 0.001
[network.ladder]
learning_rate = [0.003, 0.01]
[network.read]
hidden = 8
head.dropout = 0.2
"""
    recipe = written(tmp_path, text)

    def networks(recipe: Recipe) -> list[tuple[str, float, object, float]]:
        found = recipe.sweep("").networks()
        return [(n.kind, n.learning_rate, getattr(n.settings, "hidden", None), n.head.dropout) for n in found]

    rest = [("ladder", 0.003, None, 0.1), ("ladder", 0.01, None, 0.1), ("probe", 0.001, None, 0.1)]
    assert networks(recipe) == [("read", 0.001, 8, 0.2), *rest]
    assert networks(recipe.override({"read.hidden": "16"}, text=True)) == [("read", 0.001, 16, 0.2), *rest]
    ranged = recipe.override({"ladder": {"learning_rate": {"low": 1e-3, "high": 1e-2, "count": 3}}})
    assert [rate for kind, rate, *_ in networks(ranged) if kind == "ladder"] == [0.001, 0.00316228, 0.01]


@pytest.mark.parametrize(
    ("table", "facts"),
    [
        ({"ladder.reduction": 4}, ["ladder.reduction", "read"]),
        ({"read.hidden": "wide"}, ["read", "hidden", "wide"]),
        ({"read.depth": 4}, ["depth", "hidden"]),
        ({"read": {"epochs": 4}}, ["read.epochs"]),
        ({"read.seed": 4}, ["read.seed"]),
    ],
)
def test_settings_that_one_kind_cannot_have(table, facts) -> None:
    with pytest.raises(UserError) as refused:
        Recipe().override(table).sweep("")
    assert all(fact in str(refused.value) for fact in facts)
