"""A short question to a store before anything is published there: does it refuse to create an object twice?

A store that ignores the header ``If-None-Match`` answers "created" to both of two writers, and two model versions
would bear the same number. This costs a few small requests, once for each store that a process opens. It finds a store
that ignores the condition, and not one that honours it only mostly: for that there is `tru doctor`.
"""

import threading
import weakref

from tru_core.errors import IntegrityError
from workflows.storage import ObjectStore
from workflows.storage.commands import doctor_command
from workflows.storage.object_keys import create_only_key

_BODY = b'{"kind":"tru.create-only"}'

_lock = threading.Lock()
_passed: "weakref.WeakSet[ObjectStore]" = weakref.WeakSet()


def require_create_only(store: ObjectStore) -> None:
    """Do nothing if a store refuses a second create, whether with the same content or with other content.

    Leaves one object behind, the same for all. A store whose settings say ``unsafe_single_writer`` is not asked.

    Raises:
        IntegrityError: If it does not refuse.
    """
    if store.unsafe_single_writer or store in _passed:
        return
    with _lock:
        store.put_if_absent(create_only_key(), _BODY)
        for body in (b"other content", _BODY):
            if store.put_if_absent(create_only_key(), body) or store.read(create_only_key()) != _BODY:
                raise IntegrityError(
                    f"storage {store.url} created an object a second time instead of refusing: it ignores conditional "
                    f"writes, so two publishers could both win. Nothing was published. Run `{doctor_command(store)}` "
                    f"for the whole list, and use another storage. If there is only ever one writer, set "
                    f"storage.unsafe_single_writer in the job file; receipts will say so."
                )
        _passed.add(store)
