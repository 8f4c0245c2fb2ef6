"""Settings of TRU, as a sequence built from what was measured and as Algorithm 1 is printed."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from tru_core.settings import Settings
from tru_core.unlearning.interventions import GateSign


class TRUSettings(Settings):
    """Settings of TRU. Where the paper is silent the choice, its reason and its switch stand here.

    Both ways:

    Attributes:
        paper_literal: Do Algorithm 1 as printed (:mod:`tru_core.unlearning.algorithm_one`) and nothing else of the
            sequence but ``reset_subjects``. Measured: it hardly forgets.
        learning_rate: eta of Algorithm 1: of repair (times 1 - alpha) and, where it has none of its own, reverse.
        reverse_learning_rate: In Algorithm 1: own eta of the reverse step. In the sequence: Adam's step size of the
            touched rows, in root mean squares of their table, 0.08 where left out.
        batch_size: Rows of a batch, as in training.
        gate: Fusion gate of Eq. (3) on or off.
        gate_weight: lambda_fusion. Not in the paper; ``gate_weight * sqrt(fusion weights)`` of about a tenth
            of the fusion gradient's norm.
        gate_sign: ``shrink`` lets the penalty shrink fusion weights, as its purpose says; ``literal``
            ascends it with the loss, as Eq. (7) is printed.
        branch_scaling: Eq. (4) on or off (the paper's retain-scale switch). Left out: on in Algorithm 1, off in the
            sequence, where the matched loss needs no brake and it doubles the steps.
        scale_floor: gamma_min. Not in the paper.
        isolation: Module mask of Eq. (6) on or off.
        module_share: p, the paper's grid is 0.1 ... 0.9.
        min_parameter_share: tau_min. Not in the paper; 0.05 makes sure of an embedding table, not of a wide
            feature table that would swallow the mask.
        excluded_modules: Modules that the reverse step never moves, by name, whatever their sensitivity.
        reset_subjects: Make the rows of deleted users and items fresh. Off only to measure what the rest does
            alone: a model published so still holds the deleted rows.
        seed: Decides batches, negatives, fresh rows and the pairs that are compared.

    The sequence:

    Attributes:
        replace_rows: Rows of users who lose some pairs and stay (:mod:`tru_core.unlearning.user_rows`): ``predicted``
            from the items that they retain, ``fresh`` as before training, or ``none``: left as they are. ``best`` takes
            what validates better, predicted or fresh; in part where that is dear and a user lost deleted items alone.
            Ascent cannot take back what one pair did to a row long before it hurts everybody else; a row that never
            saw the pair has nothing to take back.
        replace_items: Rows of items that lose some of their users and stay: ``predicted`` from the users who retain
            them, the more so the more they lose (:func:`tru_core.unlearning.item_rows.predict_item_rows`), unless
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
            :mod:`tru_core.unlearning.stop_rule`), or within what chance gives for so few pairs, and where
            the removal of rows left it lower, down to there. Stop once both are.

    Algorithm 1:

    Attributes:
        epochs: Unlearning epochs at most. Not in the paper; its >50x speed-up means a handful.
        patience: Stop after so many epochs without a better score (see
            :func:`tru_core.unlearning.problem.candidate_score`). Not in the paper.
        reverse_ratio: alpha in Eq. (2): the reverse step has weight alpha, repair 1 - alpha. The paper gives
            0.2 for MMRecUn and none for TRU: like for like.
        energy_batches: M, batches for Eqs. (4) and (5); the paper's grid is 1 ... 5. Aggregated as the mean
            over batches of the gradient's L2 norm.
        reverse_optimizer: ``adam`` scales the *update* of each parameter (own state, no gradient at all for
            masked modules), since Adam divides out any factor on the gradient; ``sgd`` is Eq. (7) verbatim.
        reverse_objective: ``ranking`` ascends BPR alone; ``full`` the whole training loss, with L2 and the
            contrastive terms, as the notation has it. The default keeps ascent on what is to be forgotten.
        max_gradient_norm: Clip the reverse direction to this L2 norm; ascent on BPR is unbounded. None: never.
        repair_batches: Retained batches per epoch; None is a whole pass, as Algorithm 1 says.
    """

    paper_literal: bool = False
    learning_rate: PositiveFloat = 1e-3
    reverse_learning_rate: PositiveFloat | None = None
    batch_size: PositiveInt = 2048
    gate: bool = True
    gate_weight: NonNegativeFloat = 1e-4
    gate_sign: GateSign = "shrink"
    branch_scaling: bool | None = None
    scale_floor: float = Field(default=0.1, gt=0, le=1)
    isolation: bool = True
    module_share: float = Field(default=0.5, gt=0, le=1)
    min_parameter_share: float = Field(default=0.05, ge=0, le=1)
    excluded_modules: tuple[str, ...] = ()
    reset_subjects: bool = True
    seed: NonNegativeInt = 0

    replace_rows: Literal["best", "predicted", "fresh", "none"] = "best"
    replace_items: Literal["predicted", "none"] = "predicted"
    reverse_steps: NonNegativeInt = 16
    round_steps: PositiveInt = 2
    forget_weight: NonNegativeFloat = 1.0
    residue_weight: NonNegativeFloat = 1.0
    repair: bool | None = None
    shared_learning_rate: NonNegativeFloat | None = None
    max_quality_loss: float = Field(default=0.05, ge=0, le=1)
    tolerance: float = Field(default=0.02, ge=0, lt=0.5)

    epochs: PositiveInt = 3
    patience: PositiveInt = 3
    reverse_ratio: float = Field(default=0.2, gt=0, lt=1)
    energy_batches: PositiveInt = 3
    reverse_optimizer: Literal["adam", "sgd"] = "adam"
    reverse_objective: Literal["ranking", "full"] = "ranking"
    max_gradient_norm: PositiveFloat | None = None
    repair_batches: PositiveInt | None = None

    @property
    def scales_branches(self) -> bool:
        """Whether Eq. (4) is on."""
        return self.paper_literal if self.branch_scaling is None else self.branch_scaling

    def repairs(self, *, moves_shared: bool) -> bool:
        """Whether steps of the sequence take retained pairs in, given whether shared modules move."""
        return moves_shared if self.repair is None else self.repair
