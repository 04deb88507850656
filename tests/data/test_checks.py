"""Every check of data fails on its flaw, in memory and lazily built; data without flaws pass."""

import pytest
import torch
from torch.utils.data import Dataset

from stabletrain.data import Data, LazySplit, check_data
from stabletrain.data.base import digest
from stabletrain.data.lazy import BLOCK, MAX_SCANNED, blocks_of
from stabletrain.errors import RequestError

SPLITS = ("train", "val", "test")


class Made(Data):
    """Three given splits of sequences."""

    name = "made"
    forms = ("sequence",)
    source = "Made."

    def __init__(self, splits, task="classification", form="sequence", num_outputs=3, per_step=False):
        self.task, self.per_step = task, per_step
        super().__init__(*splits, batch_size=1, form=form, num_outputs=num_outputs)


class Lazy(LazySplit):
    """The same examples, one at a time."""

    def __init__(self, inputs, targets):
        self._inputs, self._targets = inputs, targets
        self.reads = 0

    def __len__(self):
        return len(self._inputs)

    def __getitem__(self, index):
        self.reads += 1
        return self._inputs[index], self._targets[index]

    def numbers(self):
        return [self._inputs, self._targets]


class Plain(Dataset):
    """A Dataset with a length and no other attributes."""

    def __init__(self, inputs, targets):
        self._inputs, self._targets = inputs, targets

    def __len__(self):
        return len(self._inputs)

    def __getitem__(self, index):
        return self._inputs[index], self._targets[index]


def make(kind=None, task="classification", per_step=False, **options):
    """Valid splits of 600 examples, and a function that introduces a flaw before they are wrapped."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for split in SPLITS:
        x = torch.randn(600, 4, 2, generator=generator)
        if task == "regression":
            y = torch.randn(600, 1, generator=generator)
        else:
            y = torch.arange(2400).reshape(600, 4) % 3 if per_step else torch.arange(600) % 3
        tensors[split] = (x, y)

    def finish():
        pairs = [tensors[split] if kind is None else kind(*tensors[split]) for split in SPLITS]
        return Made(pairs, task=task, per_step=per_step, **options)

    return tensors, finish


def refusal(data) -> RequestError:
    with pytest.raises(RequestError) as caught:
        check_data(data)
    assert caught.value.key == "data"
    assert caught.value.allowed
    return caught.value


KINDS = pytest.mark.parametrize("kind", [None, Lazy, Plain], ids=["tensors", "lazy", "dataset"])


@KINDS
@pytest.mark.parametrize(("task", "per_step"), [("classification", False), ("classification", True), ("regression", 0)])
def test_flawless_data_passes(kind, task, per_step):
    check_data(make(kind, task, bool(per_step))[1]())


@KINDS
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_inputs_that_are_not_finite(kind, split, value):
    tensors, finish = make(kind)
    tensors[split][0][311, 2, 1] = value
    tensors[split][0][311, 3, 1] = value
    tensors[split][0][599, 0, 0] = value
    error = refusal(finish())
    assert error.found == "NaN or Inf in 2 of 600 examples, the first at index 311"
    assert error.problem.startswith(f"The {dict(train='training', val='validation', test='test')[split]} set")


@KINDS
@pytest.mark.parametrize("split", SPLITS)
def test_regression_targets_that_are_not_finite(kind, split):
    tensors, finish = make(kind, "regression")
    tensors[split][1][7] = float("nan")
    assert refusal(finish()).found == "NaN or Inf in 1 of 600 examples, the first at index 7"


@KINDS
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("label", [-1, 3, 255])
@pytest.mark.parametrize("per_step", [False, True])
def test_labels_that_are_no_class(kind, split, label, per_step):
    tensors, finish = make(kind, per_step=per_step)
    tensors[split][1][[258, 300]] = label
    error = refusal(finish())
    assert f"in 2 of 600 examples, the first at index 258 (label {label})" in error.found
    assert error.allowed == "0 to 2"


@KINDS
@pytest.mark.parametrize("per_step", [False, True])
def test_a_single_class_to_train_on(kind, per_step):
    tensors, finish = make(kind, per_step=per_step)
    for split in ("val", "test"):  # these may be small
        tensors[split][1][:] = 1
    check_data(finish())
    tensors["train"][1][:] = 1
    assert refusal(finish()).found == "class 1 in all 600 examples"
    tensors["train"][1][599] = 2
    check_data(finish())


def test_one_target_value_of_a_regression_is_left_to_training():
    tensors, finish = make(task="regression")
    tensors["train"][1][:] = 0.5
    check_data(finish())


@KINDS
@pytest.mark.parametrize("split", ["val", "test"])
def test_an_empty_split(kind, split):
    tensors, finish = make(kind)
    tensors[split] = tuple(t[:0] for t in tensors[split])
    assert refusal(finish()).problem.endswith("set is empty.")


@pytest.mark.parametrize(("task", "per_step"), [("classification", True), ("regression", True)])
def test_targets_have_the_axes_that_the_facts_say(task, per_step):
    tensors, _ = make(task=task)
    with pytest.raises(AssertionError):  # ours, not the user's
        Made([tensors[split] for split in SPLITS], task=task, per_step=per_step)


def test_an_empty_training_set_has_no_batch():
    tensors, finish = make()
    tensors["train"] = tuple(t[:0] for t in tensors["train"])
    with pytest.raises(RequestError, match="training set of 0 examples"):
        finish()


@KINDS
@pytest.mark.parametrize(("shape", "words"), [((0, 2), "sequences without steps"), ((4, 0), "inputs without elements")])
def test_inputs_of_no_size(kind, shape, words):
    tensors, finish = make(kind)
    for split in SPLITS:
        tensors[split] = (torch.zeros(600, *shape), tensors[split][1])
    error = refusal(finish())
    assert words in error.problem
    assert str(shape) in error.found


def test_lazy_examples_are_read_up_to_a_bound():
    x, y = torch.zeros(MAX_SCANNED + 50, 1, 1), torch.arange(MAX_SCANNED + 50) % 3
    x[MAX_SCANNED] = float("nan")
    split = Lazy(x, y)
    data = Made((split, split, split))
    split.reads = 0
    check_data(data)
    assert split.reads == 3 * MAX_SCANNED
    x[MAX_SCANNED - 1] = float("nan")
    assert f"the first at index {MAX_SCANNED - 1}" in refusal(data).found


def test_a_class_may_follow_after_what_was_read():
    x, y = torch.zeros(400, 1, 1), (torch.arange(400) > 350).long()
    split = Lazy(x, y)
    split.max_scanned = 300
    check_data(Made((split, split, split)))


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_blocks_are_the_examples_in_order(size):
    x, y = torch.arange(2.0 * size).reshape(size, 2), torch.arange(size)
    for kind in (Lazy, Plain):
        inputs, targets = zip(*blocks_of(kind(x, y)), strict=True)
        assert max(map(len, inputs)) <= BLOCK
        assert torch.equal(torch.cat(inputs), x)
        assert torch.equal(torch.cat(targets), y)


def test_digest_of_every_kind_of_split_sees_a_change():
    digests = []
    for kind in (Lazy, Plain):
        tensors, finish = make(kind)
        data = finish()
        digests += [data.describe()["digest"], make(kind)[1]().describe()["digest"]]
        tensors["test"][0][5, 3, 1] += 1
        digests += [digest(data.train, data.val, data.test)]
    lazy, lazy_again, lazy_changed, plain, plain_again, plain_changed = digests
    assert lazy == lazy_again == make()[1]().describe()["digest"]
    assert plain == plain_again
    assert len({lazy, lazy_changed, plain, plain_changed}) == 4


def test_reading_examples_moves_no_global_generator():
    class Noisy(Plain):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + torch.randn(()), y

    data = make(Noisy)[1]()
    before = torch.get_rng_state()
    check_data(data)
    assert torch.equal(torch.get_rng_state(), before)
