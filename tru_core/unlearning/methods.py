"""Every unlearning method by name. A new one is one short file and one line here."""

from tru_core.unlearning.baselines.edge_deletion import EDGE_DELETION
from tru_core.unlearning.baselines.gradient_ascent import GRADIENT_ASCENT
from tru_core.unlearning.baselines.mmrecun import MMRECUN
from tru_core.unlearning.baselines.multi_delete import MULTI_DELETE
from tru_core.unlearning.baselines.rec_eraser import REC_ERASER
from tru_core.unlearning.baselines.repair_only import REPAIR_ONLY
from tru_core.unlearning.baselines.retrain import RETRAIN
from tru_core.unlearning.baselines.row_refit import ROW_REFIT
from tru_core.unlearning.baselines.row_reset import ROW_RESET
from tru_core.unlearning.baselines.scale_gun import SCALE_GUN
from tru_core.unlearning.baselines.scif import SCIF
from tru_core.unlearning.baselines.sisa import SISA
from tru_core.unlearning.baselines.ultra_re import ULTRA_RE
from tru_core.unlearning.method import Method
from tru_core.unlearning.paper.algorithm_one import ALGORITHM_ONE
from tru_core.unlearning.tru.method import TRU

METHODS: dict[str, Method] = {
    "retrain": RETRAIN,
    "edge_deletion": EDGE_DELETION,
    "row_reset": ROW_RESET,
    "row_refit": ROW_REFIT,
    "repair_only": REPAIR_ONLY,
    "gradient_ascent": GRADIENT_ASCENT,
    "mmrecun": MMRECUN,
    "multi_delete": MULTI_DELETE,
    "scale_gun": SCALE_GUN,
    "scif": SCIF,
    "tru": TRU,
    "algorithm_one": ALGORITHM_ONE,
    "sisa": SISA,
    "rec_eraser": REC_ERASER,
    "ultra_re": ULTRA_RE,
}
