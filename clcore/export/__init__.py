"""A finished trial as what a deployment keeps: one safetensors file for all tasks, or one for a task alone.

All tasks together are what the method's ``kept`` says, and what it cannot keep is worked out or drawn again when the file is read.
One task alone is a plain network: its units that do nothing are cut out, and its weights are written in the fewest bytes from
which they come back bit for bit.
"""

from clcore.export.everything import read_all, write_all
from clcore.export.files import Written
from clcore.export.one_task import CUTS, Cut, is_plain, write_task
from clcore.export.plain import TaskModel, read_task, task_accuracy

__all__ = ["CUTS", "Cut", "TaskModel", "Written", "is_plain", "read_all", "read_task", "task_accuracy", "write_all", "write_task"]
