"""Does a router, or a whole layer, do what the paper says? Draws small cases, and keeps the smallest that shows it does not.

    report = conformance.check(router=my_router, layer=my_layer)
    print(report)
    report.holds, report.broken["3b"].why, report.broken["3b"].arrays

The number of a property is its equation's; E11 is the jitter of appendix C. Three are not the paper's: `call` and `pure` are
what any function owes, and `order` is the queue of mesh-tf, flaxformer and Hugging Face, the only one that a router which
serves the largest gate first breaks.
"""

from .report import CLAIMS, Counterexample, Report, check

__all__ = ["CLAIMS", "Counterexample", "Report", "check"]
