"""The diet: score, schedule and selection behind one stateful object (`diet.diet.Diet`)."""
