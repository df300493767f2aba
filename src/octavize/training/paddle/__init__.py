"""`octavize compare --backend paddle`: the same recipes, run folders and reports, trained in PaddlePaddle."""
