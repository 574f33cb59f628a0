"""What every engine is given and must do, whatever runs it: the contract, the plan of a step, main memory."""
