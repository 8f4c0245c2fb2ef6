"""Every call into ``tru_core`` made by these tests has its shapes and dtypes checked against its signature.

The hook rewrites modules when they are imported, so it stands before any import of ``tru_core``.
"""

from jaxtyping import install_import_hook

install_import_hook(["tru_core"], "beartype.beartype")
