"""Operations of the API that have a module each: what makes them, and the types of what they tell."""
