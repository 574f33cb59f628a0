"""The interface of every engine, on any backend: the contract, the plan of a step, main memory."""
