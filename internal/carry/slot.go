package carry

// Slots is how many a cluster has.
const Slots = 16384

// SlotOf is the slot of a key: CRC16 (XMODEM) of what stands between the first { and the next }, if
// anything does, else of all (redis, cluster.c: keyHashSlot).
func SlotOf(key []byte) int {
	for i, b := range key {
		if b != '{' {
			continue
		}
		for k, b := range key[i+1:] {
			if b == '}' {
				if k > 0 {
					key = key[i+1 : i+1+k]
				}
				break
			}
		}
		break
	}
	crc := uint16(0)
	for _, b := range key {
		crc ^= uint16(b) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc % Slots)
}
