"""Losses by their papers' formulas, over several processes, with miners and a memory."""

import math
from itertools import combinations, permutations
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from retrieval import losses
from retrieval.config import CONFIGS, load_yaml
from retrieval.errors import InputError
from retrieval.losses import Memory, Objective, QuantisedAP, SmoothAP, TupleContrastive, TupleTriplet

LOSSES = sorted(path.stem for path in (CONFIGS / "loss").glob("*.yaml"))
MINERS = sorted({path.stem for path in (CONFIGS / "miner").glob("*.yaml")} - {"none"})
TUPLES = ["tuple_contrastive", "tuple_triplet"]
RANKINGS = ["quantised_ap", "smooth_ap"]
CLASSIFYING = ["arcface", "cosface", "subcenter_arcface"]
PAIRS = sorted({*LOSSES} - {*TUPLES, *RANKINGS, *CLASSIFYING})
DIM, UNIT = 6, 3
LABELS = torch.tensor([0, 1, 2, 0, 3, 0, 1, 3, 3, 4, 0, 1])
# (loss, miner, memory): each loss alone, with a memory where it takes one, with a miner where it takes one, with both
CASES = [(loss, "none", 0) for loss in LOSSES]
CASES += [(loss, "none", 18) for loss in PAIRS + RANKINGS]
CASES += [(loss, "multi_similarity", 0) for loss in PAIRS + CLASSIFYING]
CASES += [(loss, "batch_hard", 18) for loss in PAIRS]


def objective(loss: str, miner: str = "none", memory: Any = 0, unit: int | None = UNIT, **keys: Any) -> Objective:
    parts = {name: load_yaml(CONFIGS / name / f"{choice}.yaml") for name, choice in (("loss", loss), ("miner", miner))}
    parts["loss"].update(keys)
    return losses.from_config(OmegaConf.create({**parts, "memory": memory}), num_classes=5, dim=DIM, unit=unit)


def unit_vectors(rows: int = len(LABELS), seed: int = 0) -> Tensor:
    numbers = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, DIM, generator=numbers, dtype=torch.float64), dim=1)


def perfect(labels: Tensor) -> Tensor:
    """One axis for each label; tuples have one for query and positive, another for the negatives."""
    return F.one_hot(labels, DIM).double()


def of_tuples(name: str) -> Tensor:
    """Labels of a batch: those of tuples where the loss takes tuples."""
    return torch.tensor([0, 0, 1, 2, 2, 3] * 2) if name in TUPLES else LABELS


def class_vectors(network: Objective) -> Tensor:
    """What a classifying loss learns (classes * centres, d)."""
    return network.get_parameter("loss.W").detach().T


def angle(a: Tensor, b: Tensor) -> float:
    return math.acos(float(F.cosine_similarity(a, b, dim=0)))


# The formulas, in plain loops.


def contrastive_of_pairs(x: Tensor, labels: Tensor, margin: float) -> float:
    near = [float(torch.dist(x[i], x[j])) ** 2 / 2 for i, j in combinations(range(len(x)), 2) if labels[i] == labels[j]]
    far = [
        max(0, margin - float(torch.dist(x[i], x[j]))) ** 2 / 2
        for i, j in combinations(range(len(x)), 2)
        if labels[i] != labels[j]
    ]
    far = [value for value in far if value > 0]
    return sum(near) / len(near) + sum(far) / len(far)


def triplets(labels: Tensor) -> list[tuple[int, int, int]]:
    each = permutations(range(len(labels)), 3)
    return [(a, p, n) for a, p, n in each if labels[a] == labels[p] != labels[n]]


def triplet_of_batch(x: Tensor, labels: Tensor, margin: float) -> float:
    values = [float((x[a] - x[p]).square().sum() - (x[a] - x[n]).square().sum()) for a, p, n in triplets(labels)]
    values = [value + margin for value in values if value + margin > 0]
    return sum(values) / len(values)


def multi_similarity(x: Tensor, labels: Tensor, alpha: float, beta: float, base: float) -> float:
    total = 0.0
    for i in range(len(x)):
        alike = [float(x[i] @ x[j]) for j in range(len(x)) if j != i and labels[j] == labels[i]]
        other = [float(x[i] @ x[j]) for j in range(len(x)) if labels[j] != labels[i]]
        total += math.log(1 + sum(math.exp(-alpha * (s - base)) for s in alike)) / alpha
        total += math.log(1 + sum(math.exp(beta * (s - base)) for s in other)) / beta
    return total / len(x)


def ntxent(x: Tensor, labels: Tensor, temperature: float) -> float:
    terms = []
    for i, j in permutations(range(len(x)), 2):
        if labels[i] == labels[j]:
            right = math.exp(float(x[i] @ x[j]) / temperature)
            wrong = sum(math.exp(float(x[i] @ x[n]) / temperature) for n in range(len(x)) if labels[n] != labels[i])
            terms.append(-math.log(right / (right + wrong)))
    return sum(terms) / len(terms)


def cross_entropy(logits: list[list[float]], labels: Tensor) -> float:
    each = [math.log(sum(map(math.exp, row))) - row[int(label)] for row, label in zip(logits, labels, strict=True)]
    return sum(each) / len(each)


def arcface(x: Tensor, labels: Tensor, centres: Tensor, margin: float, scale: float) -> float:
    """centres (classes, K, d); margin in radians."""
    logits = []
    for row, label in zip(x, labels, strict=True):
        angles = [min(angle(row, centre) for centre in of_class) for of_class in centres]
        cosines = [math.cos(a) for a in angles]
        own = angles[int(label)]
        cosines[int(label)] = (
            math.cos(own + margin) if own + margin <= math.pi else math.cos(own) - margin * math.sin(margin)
        )
        logits.append([scale * c for c in cosines])
    return cross_entropy(logits, labels)


def cosface(x: Tensor, labels: Tensor, centres: Tensor, margin: float, scale: float) -> float:
    cosines = [[math.cos(angle(row, centre)) for centre in centres[:, 0]] for row in x]
    for row, label in zip(cosines, labels, strict=True):
        row[int(label)] -= margin
    return cross_entropy([[scale * c for c in row] for row in cosines], labels)


def average_precision(similarities: Tensor, relevant: Tensor) -> float:
    """The finite sum: mean precision at the ranks of the relevant images."""
    hits = relevant[similarities.argsort(descending=True)].tolist()
    return sum(sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit) / sum(hits)


def smooth_ap(similarities: Tensor, relevant: Tensor, temperature: float) -> float:
    def ahead(j: int, i: int) -> float:
        return float(torch.sigmoid((similarities[j] - similarities[i]) / temperature))

    right = relevant.nonzero().flatten().tolist()
    others = [j for j in range(len(relevant)) if j not in right]
    total = 0.0
    for i in right:
        among = 1 + sum(ahead(j, i) for j in right if j != i)
        total += among / (among + sum(ahead(j, i) for j in others))
    return total / len(right)


def quantised_ap(similarities: Tensor, relevant: Tensor, bins: int) -> float:
    width = 2 / (bins - 1)
    counted = found = total = 0.0
    for centre in (1 - width * m for m in range(bins)):
        shares = [max(0.0, 1 - abs(float(s) - centre) / width) for s in similarities]
        here = sum(share for share, hit in zip(shares, relevant, strict=True) if hit)
        counted, found = counted + sum(shares), found + here
        total += found / counted * here if here else 0
    return total / int(relevant.sum())


def test_contrastive_is_hadsells() -> None:
    network, x = objective("contrastive", neg_margin=1.4), unit_vectors()
    expected = contrastive_of_pairs(x, LABELS, 1.4)
    assert network(x, LABELS).item() == pytest.approx(expected, rel=1e-9)


def test_triplet_is_schroffs() -> None:
    x = unit_vectors()
    assert objective("triplet")(x, LABELS).item() == pytest.approx(triplet_of_batch(x, LABELS, 0.1), rel=1e-9)


def test_multi_similarity_is_wangs() -> None:
    x = unit_vectors()
    expected = multi_similarity(x, LABELS, 2, 50, 0.5)
    assert objective("multi_similarity")(x, LABELS).item() == pytest.approx(expected, rel=1e-9)


def test_ntxent_is_the_cross_entropy_of_each_positive_among_the_negatives() -> None:
    x = unit_vectors()
    assert objective("ntxent")(x, LABELS).item() == pytest.approx(ntxent(x, LABELS, 0.07), rel=1e-9)


@pytest.mark.parametrize(("name", "centres"), [("arcface", 1), ("subcenter_arcface", 3)])
def test_arcface_is_dengs_with_a_margin_of_half_a_radian(name: str, centres: int) -> None:
    network, x = objective(name).double(), unit_vectors()
    learned = class_vectors(network).reshape(5, centres, DIM)
    assert network.loss.margin == pytest.approx(0.5, abs=1e-3)
    expected = arcface(x, LABELS, learned, math.radians(28.6), 64)
    assert network(x, LABELS).item() == pytest.approx(expected, rel=1e-9)


def test_arcface_goes_on_falling_past_180_degrees() -> None:
    network = objective("arcface").double()
    x = F.normalize(-class_vectors(network) + 0.01, dim=1)
    expected = arcface(x, torch.arange(5), class_vectors(network)[:, None], math.radians(28.6), 64)
    assert network(x, torch.arange(5)).item() == pytest.approx(expected, rel=1e-9)


def test_cosface_is_wangs() -> None:
    network, x = objective("cosface").double(), unit_vectors()
    expected = cosface(x, LABELS, class_vectors(network)[:, None], 0.35, 64)
    assert network(x, LABELS).item() == pytest.approx(expected, rel=1e-9)


def test_tuple_contrastive_is_the_papers_sum() -> None:
    tuples = unit_vectors(14).unflatten(0, (2, 7))
    expected = 0.0
    for query, *others in tuples:
        for place, other in enumerate(others):
            far = math.sqrt(float(((query - other + 1e-6) ** 2).sum()))
            y = place == 0
            expected += 0.5 * y * far**2 + 0.5 * (1 - y) * max(0, 0.85 - far) ** 2
    assert TupleContrastive(0.85)(tuples).item() == pytest.approx(expected, rel=1e-9)


def test_tuple_triplet_sums_over_the_negatives() -> None:
    tuples = unit_vectors(14).unflatten(0, (2, 7))
    expected = sum(
        max(0.0, float((query - positive).square().sum() - (query - negative).square().sum()) + 0.1)
        for query, positive, *negatives in tuples
        for negative in negatives
    )
    assert TupleTriplet(0.1)(tuples).item() == pytest.approx(expected, rel=1e-9)


def test_a_pair_that_is_one_photo_twice_has_a_gradient() -> None:
    tuples = unit_vectors(2)[[0, 0, 1]][None].requires_grad_()
    TupleContrastive(0.85)(tuples).backward()
    assert tuples.grad is not None and tuples.grad.isfinite().all()


@pytest.mark.parametrize(("loss", "formula"), [(SmoothAP(0.01), smooth_ap), (QuantisedAP(20), quantised_ap)])
def test_rankings_follow_their_papers(loss: Any, formula: Any) -> None:
    similarities, relevant = unit_vectors(5) @ unit_vectors(9, seed=1).T, torch.rand(5, 9) > 0.6
    relevant[2] = False
    parameter = getattr(loss, "temperature", None) or loss.bins
    queries = [q for q in range(5) if relevant[q].any()]
    expected = 1 - sum(formula(similarities[q], relevant[q], parameter) for q in queries) / len(queries)
    assert loss(similarities, relevant).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", RANKINGS)
def test_each_descriptor_is_a_query_among_the_others(name: str) -> None:
    x, loss = unit_vectors(), objective(name).loss
    others = [[j for j in range(len(x)) if j != i] for i in range(len(x))]
    similarities = torch.stack([x[rows] @ x[i] for i, rows in enumerate(others)])
    relevant = torch.stack([LABELS[rows] == LABELS[i] for i, rows in enumerate(others)])
    assert loss(x, LABELS).item() == pytest.approx(loss(similarities, relevant).item(), rel=1e-9)


@given(st.lists(st.booleans(), min_size=2, max_size=30).filter(any), st.integers(0, 99))
def test_smooth_ap_is_the_true_one_at_a_low_temperature(hits: list[bool], seed: int) -> None:
    similarities = torch.linspace(-1, 1, len(hits), dtype=torch.float64)
    similarities = similarities[torch.randperm(len(hits), generator=torch.Generator().manual_seed(seed))]
    relevant = torch.tensor(hits)
    expected = 1 - average_precision(similarities, relevant)
    assert SmoothAP(1e-4)(similarities[None], relevant[None]).item() == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.booleans(), min_size=20, max_size=20).filter(any), st.integers(0, 99))
def test_quantised_ap_is_the_true_one_where_each_similarity_has_its_own_bin(hits: list[bool], seed: int) -> None:
    similarities = torch.linspace(-1, 1, 20, dtype=torch.float64)
    similarities = similarities[torch.randperm(20, generator=torch.Generator().manual_seed(seed))]
    relevant = torch.tensor(hits)
    expected = 1 - average_precision(similarities, relevant)
    assert QuantisedAP(20)(similarities[None], relevant[None]).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", RANKINGS)
@given(labels=st.lists(st.integers(0, DIM - 1), min_size=1, max_size=24))
def test_perfect_descriptors_lose_nothing_in_any_order_and_any_sizes_of_classes(name: str, labels: list[int]) -> None:
    ordered = torch.tensor(labels)
    assert objective(name)(perfect(ordered).float(), ordered).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", RANKINGS)
def test_a_batch_without_a_pair_has_no_gradient(name: str) -> None:
    x = unit_vectors(4).requires_grad_()
    objective(name)(x, torch.arange(4)).backward()
    assert x.grad is not None and not x.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_perfect_descriptors_have_the_least_loss(name: str) -> None:
    network, labels = objective(name).double(), of_tuples(name)
    for weights in network.parameters():
        weights.data = perfect(torch.arange(5)).repeat_interleave(weights.shape[1] // 5, 0).T.contiguous()
    x = perfect(labels).requires_grad_()
    least = network(x, labels)
    least.backward()
    assert x.grad is not None and x.grad.isfinite().all()
    disturbed = [F.normalize(x.detach() + unit_vectors(len(x), seed), dim=1) for seed in range(5)]
    others = [network(vectors, labels).item() for vectors in disturbed]
    assert min(others) >= least.item() and max(others) > 1.1 * least.item() + 0.1


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_falls_on_free_vectors(name: str) -> None:
    network, labels = objective(name), of_tuples(name)
    free = nn.Parameter(unit_vectors().float())
    steps = torch.optim.SGD([free, *network.parameters()], lr=1.0)
    values = []
    for _ in range(40):
        steps.zero_grad()
        loss = network(F.normalize(free, dim=1), labels)
        loss.backward()
        steps.step()
        values.append(loss.item())
    assert values[-1] < 0.5 * values[0] and min(values) >= 0


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    network = objective(name).double()
    assert torch.autograd.gradcheck(lambda x: network(x, LABELS), unit_vectors().requires_grad_())


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_computed_in_float32_whatever_the_autocast(name: str) -> None:
    network, x = objective(name), unit_vectors().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(x, LABELS)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, network(x.float(), LABELS))


# Several processes


class Step(nn.Module):
    """What DDP wraps: a network of one layer, and the objective."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.layer, self.objective = nn.Linear(4, DIM), objective

    def forward(self, photos: Tensor, labels: Tensor) -> Tensor:
        return self.objective(F.normalize(self.layer(photos), dim=1), labels)


def gradients(case: tuple[str, str, int], rank: int | None = None) -> list[Tensor]:
    """Gradients of layer and loss at the second batch, by one process or by one of two."""
    torch.manual_seed(0)
    inner = Step(objective(*case)).double()
    step = inner if rank is None else DistributedDataParallel(inner)
    batches = torch.randn(2, len(LABELS), 4, dtype=torch.float64)
    share = slice(None) if rank is None else slice(rank * 6, rank * 6 + 6)
    for photos in batches:
        inner.zero_grad()
        step(photos[share], LABELS[share]).backward()
    return [weights.grad for weights in inner.parameters() if weights.grad is not None]


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save([gradients(case, rank) for case in CASES], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> list[list[list[Tensor]]]:
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(one_of_two, (str(folder),), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_two_processes_have_the_gradient_of_one_with_the_whole_batch(
    case: tuple[str, str, int], by_two: list[list[list[Tensor]]]
) -> None:
    whole = gradients(case)
    assert len(whole) == 2 + (case[0] in CLASSIFYING) and all(gradient.any() for gradient in whole)
    for of_one in by_two:
        for gradient, expected in zip(of_one[CASES.index(case)], whole, strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


# Miners


def mined(name: str, x: Tensor) -> list[tuple[int, ...]]:
    miner = objective("triplet", name).miner
    assert miner is not None
    return sorted(zip(*(side.tolist() for side in miner(x, LABELS)), strict=True))


def test_batch_hard_takes_the_furthest_positive_and_the_nearest_negative() -> None:
    x = unit_vectors()
    hardest = {}
    for a, p, n in triplets(LABELS):
        kept = hardest.setdefault(a, [p, n])
        kept[0] = max(kept[0], p, key=lambda i: float(torch.dist(x[a], x[i])))
        kept[1] = min(kept[1], n, key=lambda i: float(torch.dist(x[a], x[i])))
    assert mined("batch_hard", x) == sorted((a, p, n) for a, (p, n) in hardest.items())


def test_semihard_takes_negatives_behind_the_positive_within_the_margin() -> None:
    x = unit_vectors()
    gaps = {(a, p, n): 2 * float(x[a] @ x[p] - x[a] @ x[n]) for a, p, n in triplets(LABELS)}  # of squared distances
    assert mined("semihard", x) == sorted(triplet for triplet, gap in gaps.items() if 0 < gap <= 0.1)


def test_multi_similarity_takes_pairs_that_overlap() -> None:
    x = unit_vectors()
    miner = objective("multi_similarity", "multi_similarity").miner
    assert miner is not None
    s, alike = x @ x.T, LABELS[:, None] == LABELS
    itself = torch.eye(len(x), dtype=torch.bool)
    near = s.masked_fill(alike, -9).amax(1, keepdim=True)
    far = s.masked_fill(~alike | itself, 9).amin(1, keepdim=True)
    expected = [alike & ~itself & (s - 0.1 < near), ~alike & (s + 0.1 > far)]
    a1, p, a2, n = miner(x, LABELS)
    for wanted, rows, columns in ((expected[0], a1, p), (expected[1], a2, n)):
        got = torch.zeros_like(wanted)
        got[rows, columns] = True
        assert torch.equal(got, wanted & ~(far == 9))


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("loss", PAIRS + CLASSIFYING)
def test_a_loss_counts_only_what_its_miner_took(loss: str, miner: str) -> None:
    network, x = objective(loss, miner).double(), unit_vectors()
    assert network.miner is not None
    assert torch.equal(network(x, LABELS), network.loss(x, LABELS, network.miner(x, LABELS)))
    assert network(x, LABELS) != network.loss(x, LABELS)


# Memory


def remembered(network: Objective, *batches: tuple[Tensor, Tensor]) -> list[float]:
    return [network(x, labels).item() for x, labels in batches]


@pytest.mark.parametrize("loss", PAIRS + RANKINGS)
def test_the_first_batch_finds_an_empty_memory(loss: str) -> None:
    x = unit_vectors()
    assert torch.equal(objective(loss, memory=50)(x, LABELS), objective(loss)(x, LABELS))


def test_a_batch_is_paired_with_itself_and_with_the_one_before_it() -> None:
    before, x = unit_vectors(seed=1), unit_vectors()
    network = objective("contrastive", memory=50, neg_margin=9).double()  # no pair is free
    _, loss = remembered(network, (before, LABELS), (x, LABELS))
    far = torch.cdist(x, before)
    alike = LABELS[:, None] == LABELS
    against = (far[alike] ** 2).mean() / 2 + ((9 - far[~alike]) ** 2).mean() / 2
    assert loss - network.loss(x, LABELS).item() == pytest.approx(against.item(), rel=1e-9)


@pytest.mark.parametrize("loss", PAIRS + RANKINGS)
def test_a_checkpoint_holds_the_memory(loss: str) -> None:
    batches = [(unit_vectors(seed=seed).float(), LABELS.roll(seed)) for seed in range(4)]
    whole, first, again = (objective(loss, memory=20) for _ in range(3))
    expected = remembered(whole, *batches)
    remembered(first, *batches[:2])
    again.load_state_dict(first.state_dict())
    assert remembered(again, *batches[2:]) == expected[2:]


@given(st.integers(1, 12), st.lists(st.integers(1, 7), max_size=6))
def test_a_memory_holds_the_newest(size: int, batches: list[int]) -> None:
    memory, rows = Memory(size, 1), torch.arange(sum(batches))
    for rows_of_batch in rows.split(batches):
        memory.add(rows_of_batch[:, None].float(), rows_of_batch)
    descriptors, labels = memory.held()
    assert torch.equal(descriptors[:, 0], labels.float()) and len(labels) == min(size, len(rows))
    whole = list(rows.split(batches))
    while whole and sum(map(len, whole[1:])) >= size:
        whole.pop(0)
    assert (
        {*torch.cat([rows[:0], *whole[1:]]).tolist()} <= {*labels.tolist()} <= {*torch.cat([rows[:0], *whole]).tolist()}
    )


def test_judging_leaves_the_memory_as_it_is() -> None:
    network = objective("contrastive", memory=50)
    network(unit_vectors(), LABELS)
    before = network.eval().state_dict()
    network(unit_vectors(seed=1), LABELS)
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in before.items())


@pytest.mark.parametrize("miner", MINERS)
@pytest.mark.parametrize("loss", PAIRS)
def test_a_loss_without_a_positive_in_memory_is_finite(loss: str, miner: str) -> None:
    network = objective(loss, miner, memory=50)
    network(unit_vectors(seed=1), LABELS + 100)
    assert torch.isfinite(network(unit_vectors(), LABELS))


# What does not go together


@pytest.mark.parametrize("unit", [None, 1, 2])
@pytest.mark.parametrize("loss", TUPLES)
def test_a_tuple_loss_without_tuples_is_refused(loss: str, unit: int | None) -> None:
    with pytest.raises(InputError, match=r"takes tuples of a query, a positive .* accepted: sampler=tuples"):
        objective(loss, unit=unit)


@pytest.mark.parametrize("loss", TUPLES + RANKINGS)
def test_a_loss_that_takes_no_pairs_refuses_a_miner(loss: str) -> None:
    with pytest.raises(InputError, match=r"got the miner BatchHardMiner; accepted: miner=none"):
        objective(loss, "batch_hard")


@pytest.mark.parametrize("loss", TUPLES + CLASSIFYING)
def test_a_loss_that_compares_no_batches_refuses_a_memory(loss: str) -> None:
    with pytest.raises(InputError, match=r"got memory=64; accepted: memory=0"):
        objective(loss, memory=64)


@pytest.mark.parametrize("memory", [-1, 2.5, True, "all"])
def test_a_memory_that_is_no_whole_number_is_refused(memory: Any) -> None:
    with pytest.raises(InputError, match="memory must be a whole number"):
        objective("contrastive", memory=memory)


@pytest.mark.parametrize(
    ("loss", "key", "value"),
    [
        ("quantised_ap", "bins", 1),
        ("smooth_ap", "temperature", 0),
        ("tuple_contrastive", "margin", -1),
        ("tuple_triplet", "margin", math.nan),
    ],
)
def test_a_parameter_out_of_range_is_refused(loss: str, key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"loss\.{key} must be"):
        objective(loss, **{key: value})
