"""From kept results to the tables of the documents: numbers, their text, and the tables of each kind."""
