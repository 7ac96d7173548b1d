//! The loop, the lease, the guard. Nothing else in the product awaits a step.
