(;GM[1]FF[4]CA[UTF-8]SZ[5]KM[7]RU[Tromp-Taylor area scoring, positional superko, suicide forbidden, komi 7]AP[selfplay])
