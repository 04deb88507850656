"""All programs by name, and the part that each is in."""

from benchmarks.doctor.wide.program import Program
from benchmarks.doctor.wide.tasks.control import ActorCritic, QLearning, Reinforce, TargetNetwork
from benchmarks.doctor.wide.tasks.generative import (
    ConvVae,
    DiffusionDigits,
    DiffusionPoints,
    FlowMoons,
    FlowRings,
    Gan,
    LeastSquaresGan,
    Vae,
)
from benchmarks.doctor.wide.tasks.graphs import GraphNodes, WholeGraphs
from benchmarks.doctor.wide.tasks.series import ForecastGru, ForecastLstm, ForecastTcn
from benchmarks.doctor.wide.tasks.similarity import Recommender, Siamese, SimClr, TwoTowers
from benchmarks.doctor.wide.tasks.tables import (
    CountData,
    HeavyTails,
    HeavyTailsSquared,
    LearnedWeights,
    MixedTable,
    Ordinal,
    Quantiles,
    RareClass,
    TwoTasks,
    Unscaled,
)
from benchmarks.doctor.wide.tasks.text import MaskedPatterns, Reversal, Shifting, Speech, TextClasses, TiedText
from benchmarks.doctor.wide.tasks.tuning import FineTuning, LoraDigits, LoraText, NewHead
from benchmarks.doctor.wide.tasks.vision import (
    Autoencoder,
    BatchNormCnn,
    Distillation,
    DropoutMlp,
    ResNet,
    Segmentation,
    SeveralLabels,
)

TASKS_OF: dict[str, dict[str, type[Program]]] = {
    "tuning": {
        "fine_tuning": FineTuning,
        "lora_digits": LoraDigits,
        "vae": Vae,
        "gan": Gan,
        "simclr": SimClr,
        "diffusion_digits": DiffusionDigits,
        "masked_patterns": MaskedPatterns,
        "reversal": Reversal,
        "reinforce": Reinforce,
        "q_learning": QLearning,
        "graph_nodes": GraphNodes,
        "heavy_tails": HeavyTails,
        "two_tasks": TwoTasks,
        "flow_moons": FlowMoons,
        "forecast_lstm": ForecastLstm,
        "mixed_table": MixedTable,
        "batchnorm_cnn": BatchNormCnn,
        "several_labels": SeveralLabels,
    },
    "validation": {
        "segmentation": Segmentation,
        "siamese": Siamese,
        "autoencoder": Autoencoder,
        "ordinal": Ordinal,
        "text_classes": TextClasses,
        "forecast_tcn": ForecastTcn,
        "heavy_tails_squared": HeavyTailsSquared,
        "dropout_mlp": DropoutMlp,
    },
    "reporting": {
        "new_head": NewHead,
        "lora_text": LoraText,
        "conv_vae": ConvVae,
        "least_squares_gan": LeastSquaresGan,
        "two_towers": TwoTowers,
        "diffusion_points": DiffusionPoints,
        "tied_text": TiedText,
        "shifting": Shifting,
        "actor_critic": ActorCritic,
        "target_network": TargetNetwork,
        "whole_graphs": WholeGraphs,
        "unscaled": Unscaled,
        "learned_weights": LearnedWeights,
        "flow_rings": FlowRings,
        "forecast_gru": ForecastGru,
        "rare_class": RareClass,
        "resnet": ResNet,
        "quantiles": Quantiles,
        "counts": CountData,
        "recommender": Recommender,
        "speech": Speech,
        "distillation": Distillation,
    },
}
TASKS: dict[str, type[Program]] = {name: task for part in TASKS_OF.values() for name, task in part.items()}
