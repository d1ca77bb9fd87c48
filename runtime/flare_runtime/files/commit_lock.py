"""The lock between what must be finished once it is begun and the end of the process by a signal."""

import threading

# Held while files take their names and while a process is started. What ends a run waits for it and keeps it, so that
# nothing of this kind begins after that.
committing = threading.RLock()
