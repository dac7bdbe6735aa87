"""What MLflow loads to answer with a trial's model (models from code: nothing is unpickled)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch

from clcore.predictor import Predictor

#: Name of the folder with the trial's files among the model's.
TRIAL = "trial"


class Served(mlflow.pyfunc.PythonModel):
    """Answers for inputs as the benchmark gives them, of one task (``params: {"task": 2}``) or of a task to be inferred (-1)."""

    def load_context(self, context: Any) -> None:
        """Reads the trial's files; who loads an MLflow model runs its code anyway, this file among it."""
        self.predictor = Predictor.load(Path(context.artifacts[TRIAL]), run_files=True)

    def predict(self, context: Any, model_input: np.ndarray, params: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Tasks (-1: not known), labels within them (or values), and the benchmark's classes (-1: not known); all of shape [n].

        Args:
            context: MLflow's.
            model_input: shape [n, channels, height, width].
            params: ``task``.
        """
        task = int((params or {}).get("task", -1))
        images = torch.from_numpy(np.asarray(model_input, dtype=np.float32))
        tasks, labels = self.predictor.predict(images, None if task == -1 else task)
        found = {"task": tasks, "label": labels}
        if not labels.is_floating_point():
            found["class"] = self.predictor.classes(tasks, labels)
        return {name: tensor.numpy() for name, tensor in found.items()}


mlflow.models.set_model(Served())
