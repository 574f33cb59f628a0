"""What a step does: options, rates, and the plan that engines run."""
