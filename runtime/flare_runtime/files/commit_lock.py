"""The lock between what must be finished once it is begun and the end of the process by a signal."""

import threading

# Held by whoever lets files take their names or starts a process. The last words wait for it, and keep it: what was not
# begun by then is not any more.
committing = threading.RLock()
