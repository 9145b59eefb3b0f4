package main

// static _Thread_local int before[3] = {1, 2, 3};
// static int count(int i) { return before[i % 3]++; }
import "C"

func init() { C.count(1) }
