"""Sets the clock of this Python process and of those that it starts off by FAULTS_CLOCK_OFFSET seconds.

Python runs a file of this name at its start where PYTHONPATH names its folder. The monotonic clock stays as it is,
as that of a machine does whose date is wrong.
"""

import os
import time

import time_machine

time_machine.travel(time.time() + float(os.environ["FAULTS_CLOCK_OFFSET"]), tick=True).start()
