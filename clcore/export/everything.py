"""All tasks of a trial: what its method keeps for a deployment, in one file."""

from pathlib import Path

import torch

from clcore.checkpoint import DamagedCheckpoint
from clcore.errors import UserError
from clcore.export import files
from clcore.export.files import Written
from clcore.methods.base import Tensors
from clcore.pack import member
from clcore.predictor import Predictor, Recipe, first_memory
from clcore.registry import check_files

#: The trial's seed, where weights or rotations are drawn from it again.
SEED = "seed"


def write_all(predictor: Predictor, path: Path) -> Written:
    """Writes what a deployment keeps of all tasks.

    Args:
        predictor: the finished trial.
        path: of the file; ends in ``.safetensors``.

    Raises:
        UserError: weights that are to come from the seed were drawn in another way, on a GPU or by another version.
    """
    method = predictor.method
    kept = method.kept(predictor.memory, predictor.hp)
    if method.seeded:
        kept[SEED] = torch.tensor(predictor.recipe.seed)  # 8 bytes
    _require_same_draws(predictor)
    size, header = files.write(path, files.ALL, kept, {"recipe": predictor.recipe.facts()})
    return Written(path, size, header)


def read_all(path: Path, run_files: bool = False) -> Predictor:
    """A predictor that answers as the one did that was written.

    Args:
        path: of the file.
        run_files: whether Python files that it names (a method or network of the user's) are run.

    Raises:
        DamagedCheckpoint: the file is missing, damaged or of something else.
        UserError: it names Python files, which may not be run.
    """
    kept, said = files.read(path, files.ALL)
    recipe = Recipe.from_facts(said.get("recipe", {}))
    if SEED in kept and int(kept.pop(SEED)) != recipe.seed:
        raise DamagedCheckpoint(f"{path.name} is damaged: it says two seeds")
    try:
        check_files(path.name, recipe.names, run_files)
        method, hp = recipe.build(), member(recipe.hp(torch.float32, torch.device("cpu")), 0)
        return Predictor(recipe, method.restored(kept, hp, first_memory(method, recipe.seed)))
    except (AttributeError, KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise DamagedCheckpoint(f"{path.name} does not hold what {recipe.method} keeps: {error!r}") from None


def _require_same_draws(predictor: Predictor) -> None:
    """What the seed stands for has to come from it again, here."""
    prefixes, memory = predictor.method.from_seed, predictor.memory
    drawn: Tensors = first_memory(predictor.method, predictor.recipe.seed) if prefixes else {}
    if any(not torch.equal(memory[name].cpu(), t.to(memory[name])) for name, t in drawn.items() if name.startswith(prefixes)):
        raise UserError(
            f"the weights of this {predictor.recipe.method} trial do not come from its seed here: "
            "it was trained on another kind of device or with another version of torch."
        )
