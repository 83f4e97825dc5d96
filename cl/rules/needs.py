"""What a component needs and no other provides."""

from collections.abc import Iterator

from cl.components import Capability

REMEDY: dict[Capability, str] = {
    "momentum": "wrap the encoder: Objective.encoder = @Momentum(), with @UpdateMomentum() in cl.train.hooks; or take "
    "out what needs it, or let a queue hold trained keys: Queue.trained_keys = True",
    "queue": "wrap the provider: Term.provider = @Queue(), or take @Enqueue() out of cl.train.hooks",
    "keys without gradient": "bind Predict.stop_gradient = True, or wrap the encoder: Objective.encoder = @Predict()",
    "predictor": "bind Momentum.predictors or Predict.predictors",
    "paired": "bind Term.provider = @PositivesOnly()",
    "keys": "choose a provider that looks at keys, such as @PositivesOnly()",
    "negatives of the batch alone": "bind Term.provider = @InBatch()",
    "negatives": "bind Term.provider = @InBatch(), or wrap the provider in @Queue()",
    "unit norm": "bind Siamese.unit_norm = True, or Dual.unit_norm or Towers.unit_norm",
    "free length": "bind Siamese.unit_norm = False, or Dual.unit_norm or Towers.unit_norm",
    "centre": "bind Term.loss = @SelfDistillation(), or take @UpdateCentre() out of cl.train.hooks",
    "groups of a caption": "group the views by caption: bind MemoryViews.group (or StreamViews.group) = @ByCaption()",
    "groups of a label": "group the views by label: bind MemoryViews.group (or StreamViews.group) = @ByLabel()",
    "labels": "use data with labels, or group by sample: @BySample()",
    "captions": "use data with captions, or drop what reads them",
}


def missing(needs: frozenset[Capability], provides: frozenset[Capability], who: object, where: str) -> Iterator[str]:
    """A sentence for every capability that is needed, and is not provided `where`."""
    for capability in sorted(needs - provides):
        yield (
            f"{type(who).__name__} needs {capability!r}, which {where} does not provide. "
            f"To mend it, {REMEDY[capability]}."
        )
