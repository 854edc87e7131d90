"""The course's machinery: sources, syllabus, checks, running, publishing.

This file, ``streams`` and ``__main__`` import the standard library only: they run before anything is installed.
"""

import os

from course import streams

# On shared cores torch's OpenMP threads spin while they wait, and a lesson spends most of its time on that.
# The setting works only if it is there before torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

streams.print_in_plain_words()  # every command and every check prints marks, and comes through here before it does
