"""What an optimizer owns: parameters, groups, states, gradients, and how they are saved."""
