"""What other tools call the metrics: `train_loss`, `Loss/train` and `epoch_loss` are all `train/loss`.

A name is split into words, and what is left without the words that say little (`step`, `epoch`, `mean`) must be one
metric and at most one stage. A further word, as in `train/loss_classifier` or `kl_loss`, makes it another metric.
"""

from __future__ import annotations

import re
from functools import lru_cache

from stabletrain.vocabulary.metric_names import ACCURACY, LOSS, LR, NORM_AFTER, NORM_TOTAL, TEST, TRAIN, VAL, of_stage

STEP_NAMES = (  # in the order in which they are preferred
    *("step", "global_step", "trainer/global_step", "_step", "steps", "iteration", "iter", "it", "num_updates"),
    *("update", "updates", "time/total_timesteps", "train/global_step", "batch"),
)
EPOCH_NAMES = ("epoch", "epochs", "train/epoch")
TIME_NAMES = ("time", "timestamp", "_timestamp", "_runtime", "wall time", "wall_time", "walltime", "elapsed")
OF_HUGGING_FACE = frozenset({"train/epoch", "train/global_step"})  # tags of its event files
SUMMARY_TAG = "train/train_loss"  # of Hugging Face in TensorBoard: the mean loss of the whole training
EXAMPLE = "train_loss"

STAGE_WORDS = {
    **dict.fromkeys(("train", "training", "trn", "tr", "fit"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "validate", "eval", "evaluation", "dev", "holdout"), VAL),
    **dict.fromkeys(("test", "testing"), TEST),
}
LOSS_WORDS = frozenset({"loss", "losses", "cost"})
ACCURACY_WORDS = frozenset({"acc", "accuracy", "acc1", "top1"})
GRADIENT_WORDS = frozenset({"grad", "grads", "gradient", "gradients", "g"})
NORM_WORDS = frozenset({"norm", "norms", "gnorm", "gradnorm"})
AFTER_CLIPPING = frozenset({"clipped", "postclip", "after"})
# Words that do not change which metric it is.
SAY_LITTLE = frozenset(
    {
        *("step", "steps", "epoch", "epochs", "batch", "iter", "iteration", "iterations", "vs"),
        *("mean", "avg", "average", "smoothed", "running", "current", "total", "overall", "global"),
        *("metric", "metrics", "value", "log", "logs", "logged"),
        *("categorical", "sparse", "binary", "multiclass"),
    }
)
OF_NORMS = frozenset(
    {"l2", "2", "0", "all", "before", "preclip", "unclipped", "clip", "clipping", "pre", "post", "model"}
)
OF_RATES = frozenset({"base", "current", "head", "group", "opt", "optim", "optimizer", "model", "step", "epoch"})
_OPTIMIZER = re.compile(
    r"(adam\w*|\w*sgd\w*|\w*adam|rmsprop|adagrad|adadelta|adafactor|lion|lamb|lars|lbfgs|muon|pg\d+|\d+)"
)
_OWN = (NORM_TOTAL, NORM_AFTER, LR)
_WORD = re.compile(r"[a-z]+\d*|\d+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@lru_cache(maxsize=10_000)
def usual_name(name: str) -> str | None:
    """Return our name of a metric of another tool; None if it is none that the rules read.

    | theirs | ours |
    |---|---|
    | `loss`, `train_loss`, `Loss/train`, `train/loss_step`, `epoch_loss`, `trainLoss`, `batch_loss` | `train/loss` |
    | `val_loss`, `eval_loss`, `valid/loss`, `Loss/validation`, `validation/epoch_loss` | `val/loss` |
    | `val_acc`, `eval_accuracy`, `val/top1`, `validation/epoch_accuracy` | `val/accuracy` |
    | `lr`, `learning_rate`, `lr-Adam`, `lr-AdamW/pg1`, `train/learning_rate`, `epoch_learning_rate` | `train/lr` |
    | `grad_norm`, `train/grad_norm`, `gnorm`, `grad_2.0_norm_total`, `gradient norm` | `gradient/norm/total` |
    | `grad_norm_clipped`, `clipped_grad_norm`, `grad_norm/after_clip` | `clip/norm_after` |

    Example:
        >>> usual_name("Loss/train"), usual_name("lr-AdamW/pg1"), usual_name("kl_loss")
        ('train/loss', 'train/lr', None)
    """
    if name in _OWN:
        return name
    return _meaning(name) or _meaning(_CAMEL.sub(" ", name))  # `AdamW` is one word, `trainLoss` two


def _meaning(name: str) -> str | None:
    words = _WORD.findall(name.lower())
    stages = {STAGE_WORDS[word] for word in words if word in STAGE_WORDS}
    rest = [word for word in words if word not in STAGE_WORDS]
    if len(stages) > 1:
        return None
    stage = next(iter(stages), TRAIN)
    if (norm := _norm(rest)) is not None:
        return norm if stage == TRAIN else None
    if _is_rate(rest):
        return LR if stage == TRAIN else None
    told = [word for word in rest if word not in SAY_LITTLE]
    if len(told) == 1 and told[0] in LOSS_WORDS:
        return of_stage(stage, LOSS)
    if told and ((told[0] in ACCURACY_WORDS and told[1:] in ([], ["1"])) or told == ["top", "1"]):
        return of_stage(stage, ACCURACY)
    return None


def _norm(words: list[str]) -> str | None:
    """Return the name of a norm of the whole gradient, before or after clipping; None for anything else."""
    is_norm = bool(NORM_WORDS & {*words}) and bool(GRADIENT_WORDS & {*words} or {"gnorm", "gradnorm"} & {*words})
    if not is_norm or not {*words} <= GRADIENT_WORDS | NORM_WORDS | OF_NORMS | AFTER_CLIPPING | SAY_LITTLE:
        return None
    is_after = bool(AFTER_CLIPPING & {*words}) or ("post" in words and "clip" in words)
    return NORM_AFTER if is_after else NORM_TOTAL


def _is_rate(words: list[str]) -> bool:
    joined = " ".join(words)
    for rate in ("lr", "learning rate", "learningrate"):
        if re.search(rf"\b{rate}\d?\b", joined):
            others = re.sub(rf"\b{rate}\d?\b", " ", joined).split()
            return all(word in OF_RATES or _OPTIMIZER.fullmatch(word) for word in others)
    return False
