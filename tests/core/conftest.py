"""Every call into ``tru_core`` made by these tests has its shapes and dtypes checked against its signature.

The hook rewrites modules when they are imported, so it stands before any import of ``tru_core``. It reads
annotations as type checkers do: an int is a float (PEP 484's numeric tower).
"""

import hypothesis
import torch
from jaxtyping import install_import_hook

install_import_hook(["tru_core"], "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
hypothesis.settings.register_profile("core", deadline=None, max_examples=50, derandomize=True, database=None)
hypothesis.settings.load_profile("core")
torch.set_num_threads(1)
