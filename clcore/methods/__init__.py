"""The methods, found by name. Add one of your own with an entry point ``clsweep.methods`` or a file that sets METHOD."""

from clcore.methods.base import At, Batch, Layout, Method, Stage, Tensors
from clcore.registry import Registry

METHODS = Registry(
    "method",
    {
        "finetune": "clcore.methods.finetune:METHOD",
        "freeze": "clcore.methods.freeze:METHOD",
        "joint": "clcore.methods.joint:METHOD",
        "random": "clcore.methods.random_guess:METHOD",
        "hat": "clcore.methods.hat:METHOD",
        "tfm": "clcore.methods.tfm:METHOD",
        "supsup": "clcore.methods.supsup:METHOD",
        "hopsupsup": "clcore.methods.supsup.hopsupsup:METHOD",
        "hnet": "clcore.methods.hnet:METHOD",
        "hnet-r": "clcore.methods.hnet.replay:METHOD",
        "rmn": "clcore.methods.rmn:METHOD",
        "ewc": "clcore.methods.penalties.ewc:METHOD",
        "online-ewc": "clcore.methods.penalties.online_ewc:METHOD",
        "laplace": "clcore.methods.penalties.laplace:METHOD",
        "si": "clcore.methods.penalties.si:METHOD",
        "mas": "clcore.methods.penalties.mas:METHOD",
        "rwalk": "clcore.methods.penalties.rwalk:METHOD",
        "l2": "clcore.methods.penalties.l2:METHOD",
        "ags-cl": "clcore.methods.penalties.agscl:METHOD",
        "imm-mean": "clcore.methods.penalties.imm:IMMMean",
        "imm-mode": "clcore.methods.penalties.imm:IMMMode",
        "packnet": "clcore.methods.packnet:METHOD",
        "separate-heads": "clcore.methods.separate_heads:METHOD",
        "batche": "clcore.methods.batche:METHOD",
        "psp": "clcore.methods.psp:METHOD",
        "cab": "clcore.methods.conceptors:METHOD",
        "pnn": "clcore.methods.pnn:METHOD",
        "pathnet": "clcore.methods.pathnet:METHOD",
        "den": "clcore.methods.den:METHOD",
        "vcl": "clcore.methods.vcl:METHOD",
        "frcl": "clcore.methods.frcl:METHOD",
        "lwf": "clcore.methods.distillation.lwf:METHOD",
        "lfl": "clcore.methods.distillation.lfl:METHOD",
        "replay": "clcore.methods.rehearsal.replay:METHOD",
        "gem": "clcore.methods.rehearsal.gem:METHOD",
        "mega": "clcore.methods.rehearsal.mega:METHOD",
        "dgr": "clcore.methods.rehearsal.dgr:METHOD",
        "mbpa": "clcore.methods.rehearsal.mbpa:METHOD",
        "fromp": "clcore.methods.rehearsal.fromp:METHOD",
    },
)

__all__ = ["METHODS", "At", "Batch", "Layout", "Method", "Stage", "Tensors"]
