"""The names that other tools give to the metrics, and names that look like them and are something else."""

from __future__ import annotations

import pytest

from stabletrain.vocabulary import metric_names as names
from stabletrain.vocabulary.usual_names import usual_name

TRAIN_ACCURACY = names.of_stage(names.TRAIN, names.ACCURACY)
USUAL = {
    names.TRAIN_LOSS: "loss train_loss Loss/train train/loss_step train_loss_epoch epoch_loss trainLoss batch_loss "
    "Loss total_loss loss_train train/train_loss training_loss LOSS train/mean_loss",
    names.VAL_LOSS: "val_loss eval_loss valid/loss Loss/validation validation/epoch_loss valLoss dev_loss Loss/val",
    names.TEST_LOSS: "test_loss test/loss",
    names.VAL_ACCURACY: "val_acc eval_accuracy val/top1 validation/epoch_accuracy val/acc@1 valAcc "
    "val_sparse_categorical_accuracy",
    TRAIN_ACCURACY: "acc accuracy train_acc epoch_accuracy sparse_categorical_accuracy",
    names.LR: "lr learning_rate lr-Adam lr-AdamW/pg1 lr-SGD-1 train/learning_rate epoch_learning_rate opt/lr "
    "learningRate",
    names.NORM_TOTAL: "grad_norm train/grad_norm gnorm grad_2.0_norm_total gradient_norm gradNorm grads/total_norm "
    "grad_norm_before_clip",
    names.NORM_AFTER: "grad_norm_clipped clipped_grad_norm grad_norm/after_clip grad_norm_post_clip",
}


@pytest.mark.parametrize("ours", USUAL)
def test_usual_names(ours):
    assert {theirs: usual_name(theirs) for theirs in USUAL[ours].split()} == dict.fromkeys(USUAL[ours].split(), ours)


@pytest.mark.parametrize("name", [names.TRAIN_LOSS, names.VAL_ACCURACY, names.LR, names.NORM_TOTAL, names.NORM_AFTER])
def test_our_own_names_stay(name):
    assert usual_name(name) == name


OTHERS = (
    "kl_loss aux_loss train/loss_classifier g_loss lossD grad_2.0_norm/layer.weight weight_norm norm val_top5 "
    "lr-Adam-momentum lr_scheduler step epoch perplexity train_val_loss val/lr rollout/ep_rew_mean f1 hp_metric"
)


def test_other_metrics_are_not_taken_for_these():
    assert {name: usual_name(name) for name in OTHERS.split()} == dict.fromkeys(OTHERS.split())
