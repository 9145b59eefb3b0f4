package demangle

func swift(string) (string, bool) { return "", false }
