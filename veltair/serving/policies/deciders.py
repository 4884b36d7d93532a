"""Who decides for a loop in C: a policy's native spec if it has one, else the policy itself, called back."""

from typing import Any, Protocol

from veltair.machine.c_library import CLibrary
from veltair.serving.loop.policy import Context, Policy
from veltair.serving.loop.python_decider import PythonDecider, QueryOf
from veltair.serving.policies.native_policy import NativePolicy
from veltair.serving.policies.native_spec import spec_of


class Decider(Protocol):
    """What decides, for one run: `decider` is a `decider_t *`, valid as long as this object lives.

    `error` is why a decision returned DECIDER_FAILED. `decision` is the number of the decision of the
    interpreter that is under way; 0: there is none.
    """

    decider: Any
    error: BaseException | None
    decision: int


def decider_of(
    policy: Policy, context: Context, library: CLibrary, query_of: QueryOf | None = None
) -> Decider:
    """Return who decides for a policy in one run that nobody can be asked in.

    `library` has been compiled with serving_loop.c and decisions.c; `query_of` is that of `PythonDecider`.
    """
    spec = spec_of(policy)
    if spec is None:
        return PythonDecider(policy, context, library, query_of)
    native = NativePolicy(spec, context, library)
    native.form_all()
    return native
