"""A small dense student learns from a large sparse teacher, and what it gains by that."""

import numpy as np

from .losses import log_softmax

__all__ = [
    "distilled_cross_entropy",
    "distilled_cross_entropy_vjp",
    "fraction_preserved",
    "mixed_target",
    "mixed_target_vjp",
    "soft_cross_entropy",
    "soft_cross_entropy_vjp",
    "step_speedup",
]


def mixed_target(target_t, teacher_tv, share):
    """What the student is to say: a share of what the teacher thinks, and for the rest the word that did come.

        target = share teacher + (1 - share) label

    Source: Switch, §4.2 (share 0.25).

    target_t    words only, no -100
    teacher_tv  the teacher's probabilities, not its logits
    """
    V = teacher_tv.shape[1]
    label_tv = (target_t[:, None] == np.arange(V)).astype(teacher_tv.dtype)
    return share * teacher_tv + (1 - share) * label_tv


def mixed_target_vjp(dtarget_tv, target_tv, target_t, teacher_tv, share):
    """dteacher = share dtarget."""
    return (share * dtarget_tv,)


def soft_cross_entropy(logits_tv, target_tv):
    """How surprised the model is by words that come only with some probability, in nats per word.

        -mean_t sum_v target_tv log softmax(logits_t)_v

    It is never below the entropy of the target, and reaches it where softmax(logits) is the target.

    Source: Switch, §4.2; Hinton et al. 2015, §2 (at temperature 1: the paper states none).
    """
    return -np.mean(np.sum(target_tv * log_softmax(logits_tv), axis=-1))


def soft_cross_entropy_vjp(dloss, loss, logits_tv, target_tv):
    """dlogits = (softmax sum_v target_v - target) / T, dtarget = -log softmax / T."""
    scale = logits_tv.dtype.type(dloss / len(logits_tv))
    logp_tv = log_softmax(logits_tv)
    dlogits_tv = scale * (np.exp(logp_tv) * target_tv.sum(axis=-1, keepdims=True) - target_tv)
    return dlogits_tv, -scale * logp_tv


def distilled_cross_entropy(logits_tv, target_t, teacher_tv, share=0.25):
    """The student's loss: a quarter for missing the teacher's opinion, three quarters for missing the word.

        loss = share CE(logits, teacher) + (1 - share) CE(logits, label)

    Cross entropy is linear in its target, so this is one cross entropy with the mixed target.

    Source: Switch, §4.2.

    target_t    -100 where there is nothing to predict, whatever the teacher says there; at least one must be a word
    """
    words_t = target_t >= 0
    target_tv = mixed_target(target_t[words_t], teacher_tv[words_t], share)
    return soft_cross_entropy(logits_tv[words_t], target_tv)


def distilled_cross_entropy_vjp(dloss, loss, logits_tv, target_t, teacher_tv, share=0.25):
    """soft_cross_entropy_vjp of the mixed target where there is a word, else 0."""
    words_t = target_t >= 0
    target_tv = mixed_target(target_t[words_t], teacher_tv[words_t], share)
    dlogits_tv, dteacher_tv = np.zeros_like(logits_tv), np.zeros_like(teacher_tv)
    dlogits_tv[words_t], dtarget_tv = soft_cross_entropy_vjp(dloss, loss, logits_tv[words_t], target_tv)
    (dteacher_tv[words_t],) = mixed_target_vjp(dtarget_tv, target_tv, target_t, teacher_tv, share)
    return dlogits_tv, dteacher_tv


def fraction_preserved(student, dense, teacher):
    """How much of the teacher's lead over a dense model of the student's size the student keeps: 0 none, 1 all.

        (student - dense) / (teacher - dense)

    Below 0 where distilling did harm.

    Source: Switch, §4.2, tables 6 and 7 (negative log perplexities) and 8 (SuperGLUE scores).

    Gradient: none, it is a figure to report.
    """
    return (student - dense) / (teacher - dense)


def step_speedup(baseline_steps, steps):
    """How many times fewer steps than the baseline a model needs to become as good.

        steps of the baseline / steps of ours,    both to the same quality

    It says nothing about the time that a step takes.

    Source: Switch, footnote 9.

    Gradient: none, it is a figure to report.
    """
    return baseline_steps / steps
