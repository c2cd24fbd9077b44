"""The models, one file each; `recbole_msr.plugin` makes them known to RecBole."""
