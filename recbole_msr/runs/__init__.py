"""One run: trained, tested, saved, opened again, explained."""
