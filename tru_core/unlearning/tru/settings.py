"""Settings of TRU as a sequence, built from what was measured."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from tru_core.unlearning.paper.targeting import TargetingSettings


class TRUSettings(TargetingSettings):
    """Settings of TRU, beside those of the three interventions.

    Attributes:
        branch_scaling: Eq. (4) on or off. Left out: off. The matched loss needs no brake, and it doubles the steps.
        batch_size: Retained pairs of a step with repair.
        reset_subjects: Make the rows of deleted users and items fresh. Off only to measure what the rest does
            alone: a model published so still holds the deleted rows.
        seed: Decides batches, negatives, fresh rows and the pairs that are compared.
        replace_rows: Rows of users who lose some pairs and stay (:mod:`tru_core.unlearning.user_rows`): ``predicted``
            from the items that they retain, ``fresh`` as before training, or ``none``: left as they are. ``best`` takes
            what validates better, predicted or fresh; in part where that is dear and a user lost deleted items alone.
            Ascent cannot take back what one pair did to a row long before it hurts everybody else; a row that never
            saw the pair has nothing to take back.
        replace_items: Rows of items that lose some of their users and stay: ``predicted`` from the users who retain
            them, the more so the more they lose (:func:`tru_core.unlearning.tru.item_rows.predict_item_rows`), unless
            validation recall falls by more than ``max_quality_loss``, or ``none``: left as they are.
        reverse_steps: Steps at most; the stop rule ends them earlier. 0: none.
        round_steps: Steps between two looks at the stop rule.
        forget_weight: Weight of the matched loss on forgotten pairs of users who stay. 0: none.
        residue_weight: Weight of the matched loss on pairs of rows that only the forgotten brought together. 0: none.
        max_quality_loss: Take back a round after which recall of the held-out pairs is lower than before the first
            step by more than this share, and end with the round before. Where many people like the same items, what
            only the forgotten brought together is alike by right, and unlearning that would cost everybody.
        repair: Take a batch of retained pairs around what is touched into every step too. Left out: where shared
            modules move. Where only rows do it doubles the time of a step and changes no figure by more than seeds do
            (measured); where they do move, it keeps everybody's quality (MIG-GT).
        shared_learning_rate: Adam's step size of all that is neither a row of a user nor of an item, which the gate,
            the branch scales and the mask are about. 0 holds it still. Left out: 0 where a backbone has a table of
            items, which remembers what was together (measured, moving the rest gains nothing there), and 1e-3 where
            nothing but shared modules makes items' vectors.
        tolerance: A statistic is settled within this of 0.5 (forgotten pairs: half as much again, see
            :mod:`tru_core.unlearning.tru.stop_rule`), or within what chance gives for so few pairs, and where
            the removal of rows left it lower, down to there. Stop once both are.
        reverse_learning_rate: Adam's step size of the touched rows, in root mean squares of their table; 0.08 where
            left out.
    """

    batch_size: PositiveInt = 2048
    reset_subjects: bool = True
    seed: NonNegativeInt = 0

    replace_rows: Literal["best", "predicted", "fresh", "none"] = "best"
    replace_items: Literal["predicted", "none"] = "predicted"
    reverse_steps: NonNegativeInt = 16
    round_steps: PositiveInt = 2
    reverse_learning_rate: PositiveFloat | None = None
    forget_weight: NonNegativeFloat = 1.0
    residue_weight: NonNegativeFloat = 1.0
    repair: bool | None = None
    shared_learning_rate: NonNegativeFloat | None = None
    max_quality_loss: float = Field(default=0.05, ge=0, le=1)
    tolerance: float = Field(default=0.02, ge=0, lt=0.5)

    def repairs(self, *, moves_shared: bool) -> bool:
        """Whether steps take retained pairs in, given whether shared modules move."""
        return moves_shared if self.repair is None else self.repair
