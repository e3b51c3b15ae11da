"""Language models, and what is built on them, on PaddlePaddle. Imports cost nothing until a name is used."""
