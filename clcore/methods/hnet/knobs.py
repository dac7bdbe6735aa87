"""Hyperparameters of hypernetworks, and of the replay model, that HNET and HNET+R share."""

from dataclasses import dataclass

from clcore.hyper import knob
from clcore.methods.hnet.generator import ACTIVATIONS, Generator, fitted, widths
from clcore.methods.hnet.regulariser import FORMS


@dataclass(frozen=True)
class HypernetworkKnobs:
    """The shape of a hypernetwork, and how it holds old tasks; defaults are those of permuted MNIST."""

    layers: str = knob("25-25", "hidden widths of the hypernetwork joined by hyphens; none: linear", source="HNET, appendix C")
    activation: str = knob(
        "elu", "after each hidden layer; its code has relu for the classifier of split MNIST, which is the steadier there",
        choices=tuple(ACTIVATIONS), source="HNET, appendix C",
    )  # fmt: skip
    embedding_size: int = knob(
        24, "numbers in a task's embedding", low=1, source="HNET, appendix C: 8 to 128", levels=(8, 12, 24, 36, 62, 96, 128)
    )
    chunk_embedding_size: int = knob(
        8, "numbers in a chunk's embedding", low=1, source="HNET, appendix C: 8 to 128", levels=(8, 12, 24, 36, 62, 96, 128)
    )
    compression: float = knob(
        1.0, "most numbers stored, as a fraction of the generated weights (where the chunk is none); or the fewest layers allow",
        low=1e-6,
        source="HNET, appendix C: no more than the target network has", levels=(0.05, 0.1, 0.2, 0.4, 0.7, 1.0),
    )  # fmt: skip
    lookahead: bool = knob(True, "hold old tasks after the step that the task alone would take", source="HNET, eq. 2: dtheta")
    regulariser: str = knob("delta-gram", "two ways to the same number", choices=FORMS, source="resolved: the cheaper")
    reg_batch: int = knob(
        0, "old tasks held in a step, drawn at random; 0: all", low=0, source="HNET, appendix D: 20 and 32", levels=(0, 1, 5, 20)
    )
    embedding_rate: float = knob(
        1.0, "factor on the embeddings' learning rate", low=0, packed=True, source="HNET's code: 1", levels=(0.1, 1.0, 10.0)
    )
    continue_embeddings: bool = knob(False, "embeddings of old tasks move on with theta", source="HNET, appendix C")

    def generator(self, outputs: int, chunk: int | None, tasks: int) -> Generator:
        """A hypernetwork for ``outputs`` weights, and ``tasks`` embeddings; a chunk of None is fitted.

        Raises:
            BadValue: layers that are none.
        """
        made = Generator(
            outputs, self.embedding_size, widths(self.layers), chunk or 0, self.chunk_embedding_size, self.activation
        )  # fmt: skip
        return fitted(made, self.compression, tasks) if chunk is None else made


@dataclass(frozen=True)
class ReplayKnobs(HypernetworkKnobs):
    """The replay model: a network, generated for each task, that makes images; defaults are those of split MNIST."""

    replay_model: str = knob(
        "vae", "what makes images of old tasks: a variational autoencoder's decoder, or the generator of a GAN (train it for a "
        "fixed time; HNET: lr 1e-4, layers 25-25, replay_chunk 75000, 10000 steps)", choices=("vae", "gan"),
        source="HNET, appendices B and F",
    )  # fmt: skip
    encoder: str = knob("400-400", "hidden widths of its encoder, or discriminator", source="HNET, appendix C")
    decoder: str = knob("50-150", "hidden widths of its decoder, or generator", source="HNET, appendix C: TIR; R: 250-350")
    latent: int = knob(100, "numbers that an image is made from", low=1, source="HNET, appendix C", levels=(10, 30, 100, 300))
    condition_size: int = knob(
        100, "constant numbers that tell the decoder the task", low=0, source="HNET, appendix C", levels=(8, 30, 100)
    )
    replay_chunk: int | None = knob(None, "as `chunk`, for the decoder's hypernetwork", low=0, source="HNET, appendix C: 50000")
    replay_beta: float = knob(
        0.05,
        "weight of the decoder's regulariser",
        low=0,
        packed=True,
        source="HNET, appendix C: .05 (TIR), .01 (R)",
        log=True,
        levels=(0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0),
    )
    decoder_rate: float = knob(
        1.0, "factor on the learning rate of the decoder's hypernetwork alone", low=0, packed=True,
        source="HNET's code: each has a rate of its own, all equal", levels=(0.1, 1.0, 10.0),
    )  # fmt: skip
    decoder_gain: float = knob(
        1.0, "factor on the first weights of the decoder's hypernetwork's last layer; with 1 the first images hardly depend on the "
        "latent numbers, from which a GAN may not recover", low=1e-3, source="HNET's code: 1", levels=(0.5, 1.0, 2.0),
    )  # fmt: skip
    discriminator_dropout: float = knob(
        0.4, "dropout in a GAN's discriminator", low=0, high=0.99, source="HNET, appendix B", levels=(0.0, 0.2, 0.4, 0.6)
    )
    replay_share: float = knob(
        0.5,
        "share of replayed images in the loss from the second task on",
        low=0,
        high=1,
        packed=True,
        source="HNET's code: .5",
        levels=(0.1, 0.3, 0.5, 0.7, 0.9),
    )
