"""Settings: merged, checked, and made into a RecBole configuration."""
