"""What a search and a comparison share: worker processes, the lock of an output folder, reasons of failures."""
